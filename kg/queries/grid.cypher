// The grid of one method: its hyperparameters, what they mean, and their values
// param method = "LFB"
MATCH (m:Method {id: $method})-[r:HAS_HYPERPARAMETER]->(h:Hyperparameter)
RETURN h.id AS hyperparameter, r.meaning AS meaning, r.unit AS unit, r.values AS grid
ORDER BY hyperparameter
