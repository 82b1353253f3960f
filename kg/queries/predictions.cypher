// How well searches predict a step: mean error of AR and PR by method, and whether they hope too much
MATCH (t:Trial {status: 'ok'})-[:OF_SCHEME]->(c:Scheme)-[r:STEP]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE r.position = c.length AND t.predicted_step_ar IS NOT NULL AND t.step_ar IS NOT NULL
RETURN m.id AS method, count(t) AS steps, avg(abs(t.predicted_step_ar - t.step_ar)) AS ar_error,
       avg(t.predicted_step_ar - t.step_ar) AS ar_hope, avg(abs(t.predicted_step_pr - t.step_pr)) AS pr_error
ORDER BY ar_error, method
