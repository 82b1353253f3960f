// Values of the grid that no scheme of any study has used
MATCH (h:Hyperparameter)-[:HAS_VALUE]->(x:Setting)
WHERE NOT EXISTS { MATCH (x)<-[:HAS_SETTING]-(:Strategy)<-[:STEP]-(:Scheme) }
WITH h, x ORDER BY x.ordinal
RETURN h.id AS hyperparameter, h.meaning AS meaning, collect(x.id) AS unused
ORDER BY hyperparameter
