// Schemes that start with a low-rank method and beat every single method of their study in accuracy at their size
MATCH (u:Study)<-[:IN_STUDY]-(t:Trial {status: 'ok'})-[:OF_SCHEME]->(c:Scheme)
MATCH (c)-[:STEP {position: 1}]->(:Strategy)-[:OF_METHOD]->(m:Method)
WHERE c.length >= 2
  AND EXISTS { MATCH (m)-[:USES_TECHNIQUE]->(x:Technique) WHERE toLower(x.title) CONTAINS 'low-rank' }
  AND EXISTS { MATCH (u)<-[:IN_STUDY]-(:Trial {status: 'ok'})-[:OF_SCHEME]->(:Scheme {length: 1}) }
  AND NOT EXISTS {
    MATCH (u)<-[:IN_STUDY]-(o:Trial {status: 'ok'})-[:OF_SCHEME]->(:Scheme {length: 1})
    WHERE o.pr >= t.pr AND o.accuracy >= t.accuracy
  }
RETURN u.id AS study, t.ordinal AS trial, c.id AS scheme, t.accuracy AS accuracy, t.pr AS removed
ORDER BY study, removed, trial
