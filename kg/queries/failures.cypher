// Steps that failed, by method and kind, with one reason
MATCH (t:Trial)-[:OF_SCHEME]->(c:Scheme)-[r:STEP]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE t.status <> 'ok' AND r.position = c.length
RETURN m.id AS method, t.status AS status, count(t) AS trials, min(t.reason) AS for_example
ORDER BY trials DESC, method, status
