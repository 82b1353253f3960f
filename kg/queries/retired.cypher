// What is kept but no longer used, and why
MATCH (n)
WHERE n.retired_at IS NOT NULL
RETURN labels(n)[0] AS kind, n.id AS id, n.retired_by AS retired_by, n.retired_at AS retired_at,
       n.retired_because AS because
ORDER BY retired_at, kind, id
