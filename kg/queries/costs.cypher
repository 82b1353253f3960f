// What steps cost: seconds and iterations by method, without those that were cached
MATCH (t:Trial {status: 'ok', cached: false})-[:OF_SCHEME]->(c:Scheme)-[r:STEP]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE r.position = c.length
RETURN m.id AS method, count(t) AS steps, avg(t.seconds) AS seconds, max(t.seconds) AS longest,
       avg(t.iterations) AS iterations
ORDER BY seconds DESC, method
