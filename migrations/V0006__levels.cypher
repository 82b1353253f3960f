// Until here every trial was executed at full length.
MATCH (t:Trial) WHERE t.level IS NULL SET t.level = 0;
