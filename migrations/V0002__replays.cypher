// A replay is found by its id: a scheme that was run on a model outside of a study.
CREATE CONSTRAINT replay_id IF NOT EXISTS FOR (n:Replay) REQUIRE n.id IS UNIQUE;
