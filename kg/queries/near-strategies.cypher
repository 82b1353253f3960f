// Strategies near this one, by the cosine of their embeddings, and what they did in schemes of any study
// param strategy = "NS[HP1=0.2,HP2=0.12,HP6=0.9]"
MATCH (a:Strategy {id: $strategy}), (b:Strategy {searchable: true})
WHERE a.embedding IS NOT NULL AND b.embedding IS NOT NULL AND b.id <> a.id
WITH b, reduce(sum = 0.0, i IN range(0, 31) | sum + a.embedding[i] * b.embedding[i]) AS product,
     reduce(sum = 0.0, x IN a.embedding | sum + x * x) AS a2, reduce(sum = 0.0, x IN b.embedding | sum + x * x) AS b2
WITH b, product / sqrt(a2 * b2) AS cosine ORDER BY cosine DESC, b.id LIMIT 10
OPTIONAL MATCH (b)<-[r:STEP]-(c:Scheme)<-[:OF_SCHEME]-(t:Trial {status: 'ok'})
WHERE r.position = c.length
RETURN b.id AS strategy, cosine, count(t) AS steps, avg(t.step_ar) AS step_ar, avg(t.step_pr) AS step_pr
ORDER BY cosine DESC, strategy
