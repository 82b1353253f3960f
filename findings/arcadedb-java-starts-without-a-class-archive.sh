#!/usr/bin/env bash
# arcadedb-embedded 26.10.2.post1 (Java 25.0.4.1, JPype 1.7.1): the Java in the wheel has no archive of classes, so every process reads and
# checks all of them from jars and the modules file. A one-step AOT cache, which Java 25 writes at a process's end although the virtual machine
# was started by Python and not by `java`, brings nearly all of them: some 30% of the processor time to a first query (1.35 to 0.93 s where measured).
# Seen: "no archive in the wheel; a first query: 0% of the classes from an archive; with an AOT cache: more than 90%"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check arcadedb-embedded==26.10.2.post1
cd "$dir"
cat > query.py <<'PY'
import sys

import arcadedb_embedded as arcadedb

made = len(sys.argv) > 1 and sys.argv[1] == "make"
options = {"heap_size": "512m", "jvm_args": ["-Xlog:class+load:file=loaded.txt", *sys.argv[2:]]}
enter = arcadedb.create_database if made else arcadedb.open_database
with enter("graph", jvm_kwargs=options) as database:
    if made:
        with database.transaction():
            database.command("opencypher", "CREATE (:N {id: 1})")
    assert len(list(database.query("opencypher", "MATCH (n:N) RETURN n.id AS id"))) == 1
PY
share() {
    venv/bin/python - <<'PY'
lines = [line for line in open("loaded.txt") if "source:" in line]
print(round(100 * sum("shared objects file" in line for line in lines) / len(lines)))
PY
}
venv/bin/python query.py make 2> /dev/null
archives="$(find venv -name '*.jsa' | wc -l)"
venv/bin/python query.py plain 2> /dev/null
plain="$(share)"
venv/bin/python query.py plain -XX:AOTCacheOutput=java.aot > /dev/null 2>&1
venv/bin/python query.py plain -XX:AOTCache=java.aot 2> /dev/null
cached="$(share)"
echo "$archives archives in the wheel; a first query: $plain% of the classes from an archive; with an AOT cache: $cached%"
[ "$archives" = 0 ] && [ "$plain" = 0 ] && [ "$cached" -gt 90 ]
