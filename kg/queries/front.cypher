// The front of a study: what no other of its trials beats in accuracy and size
// param study = "resnet20-cifar10-1"
MATCH (u:Study {id: $study})<-[:IN_STUDY]-(t:Trial {status: 'ok'})-[:OF_SCHEME]->(c:Scheme)
WHERE t.pr >= u.gamma AND NOT EXISTS {
  MATCH (u)<-[:IN_STUDY]-(o:Trial {status: 'ok'})
  WHERE o.accuracy >= t.accuracy AND o.pr >= t.pr AND (o.accuracy > t.accuracy OR o.pr > t.pr)
}
RETURN t.ordinal AS trial, c.id AS scheme, t.accuracy AS accuracy, t.pr AS removed
ORDER BY removed, trial
