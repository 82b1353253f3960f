// Papers and shared studies: how many results each brings, on which data
MATCH (p:Paper)<-[:REPORTED_IN]-(e:Experience)-[:ON_TASK]->(k:Task)
WITH p, k.dataset AS dataset, count(e) AS n ORDER BY dataset
RETURN p.id AS source, p.title AS title, p.year AS year, sum(n) AS results, collect(dataset) AS datasets
ORDER BY results DESC, source
