// Methods: what they are made of, how many strategies they span, and how much is known of each
MATCH (m:Method)
RETURN m.id AS method, m.title AS title,
       COLLECT { MATCH (m)-[:USES_TECHNIQUE]->(t:Technique) RETURN t.title AS title ORDER BY title } AS techniques,
       COUNT { MATCH (:Strategy {searchable: true})-[:OF_METHOD]->(m) } AS strategies,
       COUNT { MATCH (:Experience)-[:OF_STRATEGY]->(:Strategy)-[:OF_METHOD]->(m) } AS results
ORDER BY strategies DESC, results DESC, method
