// Pairs of steps that were run in both orders in one study, and what the order was worth
MATCH (u:Study)<-[:IN_STUDY]-(t:Trial {status: 'ok'})-[:OF_SCHEME]->(c:Scheme {length: 2})
MATCH (c)-[:STEP {position: 1}]->(a:Strategy), (c)-[:STEP {position: 2}]->(b:Strategy)
MATCH (u)<-[:IN_STUDY]-(o:Trial {status: 'ok'})-[:OF_SCHEME]->(d:Scheme {length: 2})
MATCH (d)-[:STEP {position: 1}]->(b), (d)-[:STEP {position: 2}]->(a)
WHERE t.accuracy > o.accuracy
RETURN u.id AS study, a.id AS first, b.id AS second, t.accuracy AS accuracy, o.accuracy AS other_way_round
ORDER BY study, accuracy DESC, first, second
