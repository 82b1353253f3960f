// What followed a method well: methods of the next step, with the mean accuracy they cost
// param method = "LFB"
MATCH (t:Trial {status: 'ok'})-[:OF_SCHEME]->(c:Scheme)-[r:STEP]->(s:Strategy)-[:OF_METHOD]->(m:Method)
WHERE r.position = c.length AND t.step_ar IS NOT NULL
MATCH (c)-[q:STEP]->(:Strategy)-[:OF_METHOD]->(:Method {id: $method})
WHERE q.position = c.length - 1
RETURN m.id AS next, count(t) AS trials, avg(t.step_ar) AS step_ar, avg(t.step_pr) AS step_pr
ORDER BY step_ar DESC, next
