// Figures of a study's trials, a page of them in a node.
CREATE CONSTRAINT trial_table_id IF NOT EXISTS FOR (n:TrialTable) REQUIRE n.id IS UNIQUE;
