// Schemes that several studies have run: does a good scheme stay good elsewhere?
MATCH (u:Study)<-[:IN_STUDY]-(t:Trial {status: 'ok'})-[:OF_SCHEME]->(c:Scheme)
WITH c, u.id AS study, t ORDER BY u.id
WITH c, collect(study) AS studies, collect(t.ar) AS ars, collect(t.pr) AS removed
WHERE size(studies) > 1
RETURN c.id AS scheme, studies, ars, removed
ORDER BY size(studies) DESC, scheme
