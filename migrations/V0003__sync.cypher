// The mark of the last sync is found by its id: with it, a search knows that nothing has changed.
CREATE CONSTRAINT sync_id IF NOT EXISTS FOR (n:Sync) REQUIRE n.id IS UNIQUE;
