// The front of a study: what no other of its trials beats in accuracy and size
// param study = "resnet20-cifar10-1"
MATCH (u:Study {id: $study})<-[:IN_STUDY]-(t:Trial {status: 'ok'})-[:OF_SCHEME]->(c:Scheme)
WITH u, t, c, coalesce(t.sr, t.pr) AS size
WHERE (t.pr >= u.gamma OR (u.gamma_of = 'size' AND size >= u.gamma)) AND NOT EXISTS {
  MATCH (u)<-[:IN_STUDY]-(o:Trial {status: 'ok'})
  WHERE o.accuracy >= t.accuracy AND coalesce(o.sr, o.pr) >= size
    AND (o.accuracy > t.accuracy OR coalesce(o.sr, o.pr) > size)
}
RETURN t.ordinal AS trial, c.id AS scheme, t.accuracy AS accuracy, t.pr AS removed, size AS bits_removed
ORDER BY removed, trial
