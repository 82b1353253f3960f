// What was measured on models of one name, such as every ResNet-56, sorted by what was removed
// param model = "ResNet-56"
MATCH (k:Task)<-[:ON_TASK]-(e:Experience)-[:OF_STRATEGY]->(s:Strategy)
WHERE k.model STARTS WITH $model AND e.pr IS NOT NULL AND e.ar IS NOT NULL AND e.retired_at IS NULL
RETURN k.dataset AS dataset, k.model AS model, s.id AS strategy, e.pr AS pr, e.ar AS ar, e.source AS source,
       e.id AS record
ORDER BY pr DESC, record
