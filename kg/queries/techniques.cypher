// Techniques, and the methods that use each
MATCH (t:Technique)<-[:USES_TECHNIQUE]-(m:Method)
WITH t, m ORDER BY m.id
RETURN t.id AS technique, t.title AS title, collect(m.id) AS methods
ORDER BY size(methods) DESC, technique
