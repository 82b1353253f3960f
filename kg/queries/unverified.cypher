// Results that nobody has checked at their source, by source
MATCH (e:Experience)-[:OF_STRATEGY]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE e.confidence IN ['authors-table-unverified', 'corpus-transcribed', 'quoted-by-another-paper']
  AND e.retired_at IS NULL
WITH e.source AS source, m.id AS method, count(e) AS n ORDER BY method
RETURN source, sum(n) AS results, collect(method) AS methods
ORDER BY results DESC, source
