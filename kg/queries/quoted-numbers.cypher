// What a quoted number became in other hands: what one paper prints of another's method, beside what others measured
// param apart = 0.02
MATCH (m:Method)<-[:OF_METHOD]-(:Strategy)<-[:OF_STRATEGY]-(q:Experience {quoted: true})-[:ON_TASK]->(k:Task)
WHERE coalesce(q.fr, q.pr) IS NOT NULL AND q.retired_at IS NULL
MATCH (m)<-[:OF_METHOD]-(:Strategy)<-[:OF_STRATEGY]-(e:Experience)-[:ON_TASK]->(j:Task {dataset: k.dataset})
WHERE NOT coalesce(e.quoted, false) AND e.origin = 'paper' AND e.source <> q.source AND e.retired_at IS NULL
  AND split(j.model, ' (')[0] = split(k.model, ' (')[0]
  AND ((q.fr IS NOT NULL AND abs(e.fr - q.fr) <= $apart) OR (q.fr IS NULL AND abs(e.pr - q.pr) <= $apart))
RETURN m.id AS method, k.dataset AS dataset, k.model AS network, q.source AS quoted_by, q.fr AS quoted_fr, q.pr AS quoted_pr,
       q.ar AS quoted_ar, e.source AS measured_by, e.fr AS fr, e.pr AS pr, e.ar AS ar, e.ar - q.ar AS difference,
       q.id AS quoted_record, e.id AS record
ORDER BY method, dataset, network, quoted_record, record
