// What people added to this graph: methods and records, by whom, when and from where
MATCH (n)
WHERE n.added_at IS NOT NULL AND (n:Method OR n:Paper)
RETURN labels(n)[0] AS kind, n.id AS id, n.title AS title, n.added_by AS added_by, n.added_at AS added_at,
       n.added_from AS added_from,
       COUNT { MATCH (n)<-[:REPORTED_IN]-(e:Experience) WHERE e.added_at IS NOT NULL } AS records
ORDER BY added_at, kind, id
