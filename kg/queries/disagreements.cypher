// Where sources disagree: one method on one model with about the same share removed, and far apart accuracies
// param spread = 0.02
MATCH (k:Task)<-[:ON_TASK]-(e:Experience)-[:OF_STRATEGY]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE e.pr IS NOT NULL AND e.ar IS NOT NULL AND e.retired_at IS NULL
WITH m.id AS method, k.dataset AS dataset, k.model AS model, toInteger(e.pr * 10) AS tenths, e ORDER BY e.id
WITH method, dataset, model, tenths, min(e.ar) AS worst, max(e.ar) AS best, collect(e.id) AS records
WHERE best - worst > $spread
RETURN method, dataset, model, tenths / 10.0 AS removed_from, worst, best, records
ORDER BY method, dataset, model, removed_from
