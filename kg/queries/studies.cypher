// Studies, with their trials and what they recommend
MATCH (u:Study)
RETURN u.id AS study, u.status AS status, u.searcher AS searcher, u.gamma AS gamma,
       COUNT { MATCH (:Trial)-[:IN_STUDY]->(u) } AS trials, u.recommended AS recommended
ORDER BY study
