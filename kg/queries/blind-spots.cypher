// Methods without any result on a data set: where a search has only the graph to go by
// param dataset = "cifar10"
MATCH (m:Method)
WHERE NOT EXISTS {
  MATCH (m)<-[:OF_METHOD]-(:Strategy)<-[:OF_STRATEGY]-(:Experience)-[:ON_TASK]->(:Task {dataset: $dataset})
}
RETURN m.id AS method, m.title AS title, m.searchable AS searchable
ORDER BY method
