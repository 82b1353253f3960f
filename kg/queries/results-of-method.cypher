// Everything that was measured with one method, and by whom
// param method = "SFP"
MATCH (e:Experience)-[:OF_STRATEGY]->(s:Strategy)-[:OF_METHOD]->(:Method {id: $method})
MATCH (e)-[:ON_TASK]->(k:Task)
WHERE e.retired_at IS NULL
RETURN e.id AS record, s.id AS strategy, k.model AS model, k.dataset AS dataset, e.ar AS ar, e.pr AS pr, e.fr AS fr,
       e.source AS source, e.table AS place
ORDER BY record
