// Where sources disagree about one method: the same network and data, about the same share of parameters or FLOPs gone
// param spread = 0.005
MATCH (k:Task)<-[:ON_TASK]-(e:Experience)-[:OF_STRATEGY]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE e.ar IS NOT NULL AND coalesce(e.pr, e.fr) > 0 AND e.origin = 'paper' AND coalesce(e.code, '') = ''
  AND NOT coalesce(e.quoted, false) AND e.retired_at IS NULL
WITH m.id AS method, k.dataset AS dataset, split(k.model, ' (')[0] AS network,
     CASE WHEN e.pr IS NULL THEN 'FLOPs' ELSE 'parameters' END AS what, toInteger(coalesce(e.pr, e.fr) * 10) AS tenths, e
ORDER BY e.id
WITH method, dataset, network, what, tenths, e.source AS source, avg(e.ar) AS mean
ORDER BY source
WITH method, dataset, network, what, tenths, min(mean) AS worst, max(mean) AS best, collect(source) AS sources
WHERE size(sources) > 1 AND best - worst > $spread
RETURN method, dataset, network, what, tenths / 10.0 AS removed_from, best - worst AS apart, worst, best, sources
ORDER BY apart DESC, method, dataset, network, removed_from
