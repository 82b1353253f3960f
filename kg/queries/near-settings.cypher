// Results whose known settings agree most with the ones given, whatever the method
// param settings = ["HP1=0.5", "HP2=0.4", "HP6=0.9"]
MATCH (e:Experience)-[:OF_STRATEGY]->(s:Strategy)-[:HAS_SETTING]->(x:Setting)
WHERE x.id IN $settings AND e.retired_at IS NULL
WITH e, s, count(x) AS agree
MATCH (e)-[:ON_TASK]->(k:Task)
RETURN e.id AS record, s.id AS strategy, agree, k.model AS model, k.dataset AS dataset, e.ar AS ar, e.pr AS pr,
       e.source AS source
ORDER BY agree DESC, record
LIMIT 25
