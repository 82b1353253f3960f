// The most accurate published result of each method with enough parameters removed, on one data set
// param dataset = "cifar10"
// param pr = 0.3
MATCH (m:Method)<-[:OF_METHOD]-(:Strategy)<-[:OF_STRATEGY]-(e:Experience)-[:ON_TASK]->(:Task {dataset: $dataset})
WHERE e.pr >= $pr AND e.ar IS NOT NULL AND e.retired_at IS NULL
RETURN m.id AS method, max(e.ar) AS best_ar, min(e.ar) AS worst_ar, count(e) AS results
ORDER BY best_ar DESC, method
