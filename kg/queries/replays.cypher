// Schemes run on another model: what was expected of them, and what came of it
MATCH (r:Replay)-[:OF_SCHEME]->(c:Scheme)
MATCH (r)-[:ON_TASK]->(k:Task)
RETURN k.model AS model, k.dataset AS data, r.study AS study, c.id AS scheme,
       r.forecast_accuracy_study AS expected_as_in_study, r.forecast_accuracy_experience AS expected_by_experience,
       r.accuracy AS measured, r.forecast_pr AS planned, r.pr AS removed
ORDER BY model, scheme, study
