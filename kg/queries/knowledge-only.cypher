// Methods that are known but cannot be searched, the best documented first: which to implement next
MATCH (m:Method {searchable: false})
OPTIONAL MATCH (m)<-[:OF_METHOD]-(:Strategy)<-[:OF_STRATEGY]-(e:Experience)
RETURN m.id AS method, m.citation AS citation, count(e) AS results
ORDER BY results DESC, method
