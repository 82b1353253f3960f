// Methods that share most techniques with one
// param method = "NS"
MATCH (:Method {id: $method})-[:USES_TECHNIQUE]->(t:Technique)<-[:USES_TECHNIQUE]-(other:Method)
WHERE other.id <> $method
WITH other, t ORDER BY t.id
RETURN other.id AS method, other.title AS title, collect(t.title) AS shared
ORDER BY size(shared) DESC, method
