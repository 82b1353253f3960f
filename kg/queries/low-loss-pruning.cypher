// Which settings of pruning methods lost under 0.5% accuracy at PR >= 0.4 on CIFAR-10, and by which paper
// param dataset = "cifar10"
// param pr = 0.4
// param ar = -0.005
MATCH (p:Paper)<-[:REPORTED_IN]-(e:Experience)-[:OF_STRATEGY]->(s:Strategy)-[:OF_METHOD]->(m:Method)
MATCH (e)-[:ON_TASK]->(k:Task {dataset: $dataset})
WHERE e.pr >= $pr AND e.ar > $ar AND e.retired_at IS NULL
  AND EXISTS { MATCH (m)-[:USES_TECHNIQUE]->(t:Technique) WHERE toLower(t.title) CONTAINS 'prun' }
RETURN s.id AS settings, k.model AS model, e.pr AS removed, e.ar AS ar, p.title AS paper, e.table AS place,
       e.id AS record
ORDER BY ar DESC, record
