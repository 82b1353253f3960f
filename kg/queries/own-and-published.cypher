// Own trials beside published results: mean AR by method, with at least some parameters removed
// param pr = 0.1
MATCH (e:Experience)-[:OF_STRATEGY]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE e.pr >= $pr AND e.ar IS NOT NULL AND e.retired_at IS NULL
WITH m.id AS method, CASE WHEN e.origin = 'trial' THEN e.ar END AS own,
     CASE WHEN e.origin = 'paper' THEN e.ar END AS paper
RETURN method, count(own) AS own_results, avg(own) AS own_ar, count(paper) AS published_results,
       avg(paper) AS published_ar
ORDER BY method
