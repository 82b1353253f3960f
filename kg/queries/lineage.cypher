// A scheme step by step: accuracy and size after each
// param study = "resnet20-cifar10-1"
// param scheme = "START"
MATCH p = (:Scheme {id: $scheme})-[:EXTENDS*0..5]->(part:Scheme)
MATCH (part)<-[:OF_SCHEME]-(t:Trial)-[:IN_STUDY]->(:Study {id: $study})
MATCH (part)-[r:STEP]->(s:Strategy)
WHERE r.position = part.length
RETURN part.length AS step, s.id AS strategy, t.status AS status, t.accuracy AS accuracy, t.pr AS removed,
       t.step_ar AS step_ar
ORDER BY step
