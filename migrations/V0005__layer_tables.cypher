// What the model of a study or trial consists of.
CREATE CONSTRAINT layer_table_id IF NOT EXISTS FOR (n:LayerTable) REQUIRE n.id IS UNIQUE;
