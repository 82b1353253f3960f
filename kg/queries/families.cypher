// Which family loses least where most FLOPs went (0.75: four times fewer), by the baseline's accuracy and the years
// param dataset = "imagenet"
// param fr = 0.75
MATCH (p:Paper)<-[:REPORTED_IN]-(e:Experience)-[:ON_TASK]->(k:Task {dataset: $dataset})
MATCH (e)-[:OF_STRATEGY]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE e.fr >= $fr AND e.ar IS NOT NULL AND k.accuracy IS NOT NULL AND p.year IS NOT NULL
  AND NOT coalesce(e.quoted, false) AND e.retired_at IS NULL
WITH coalesce(e.family, m.family) AS family, k, e, p, m
WITH family, 5 * toInteger(k.accuracy * 20) AS percent, 3 * toInteger(p.year / 3) AS year, e, p, m
RETURN family, percent AS baseline_percent_from, year AS from_year, count(e) AS results, count(DISTINCT p.id) AS sources,
       percentileCont(toFloat(e.ar), 0.5) AS median_ar, max(e.ar) AS best_ar, min(e.ar) AS worst_ar,
       count(DISTINCT m.id) AS methods
ORDER BY baseline_percent_from, from_year, median_ar DESC, family
