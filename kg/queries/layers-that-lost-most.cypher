// Layers that lost most parameters where a study lost little accuracy: before, trials, and the mean, least and greatest share
// param study = "resnet20-cifar10-1"
// param drop = 0.02
MATCH (s:Study {id: $study})-[:HAS_LAYERS]->(m:LayerTable)
UNWIND range(0, size(m.name) - 1) AS i
WITH s, m.name[i] AS layer, m.params[i] AS before
MATCH (s)<-[:IN_STUDY]-(t:Trial {status: 'ok'})-[:HAS_LAYERS]->(l:LayerTable)
WHERE t.ar >= -$drop AND size(l.name) > 0
WITH layer, before, [j IN range(0, size(l.name) - 1)
     WHERE l.name[j] = layer OR l.name[j] STARTS WITH layer + '.' | l.params[j]] AS parts
WITH layer, before, 1 - reduce(left = 0.0, part IN parts | left + part) / before AS removed
RETURN layer, before, count(removed) AS trials, avg(removed) AS removed, min(removed) AS least, max(removed) AS most
ORDER BY removed DESC, layer
LIMIT 20
