#!/usr/bin/env bash
# arcadedb-embedded 26.10.2.post1: under a uniqueness constraint the integer 5 and the string "5" are one key.
# Without the constraint both nodes can be made; with it the second is refused as a duplicate. Neo4j keeps them apart.
# Seen: "2 nodes without the constraint; with it: 1, then DuplicatedKeyException"
set -euo pipefail
dir="$(mktemp -d)"
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check arcadedb-embedded==26.10.2.post1
cd "$dir"
venv/bin/python - <<'PY'
import arcadedb_embedded as arcadedb

QUERY = "MATCH (n:N) RETURN n.id AS id"


def nodes(name: str, constraint: bool) -> tuple[int, str]:
    """Make two nodes with the keys 5 and "5"; return how many there are, and what was said."""
    said = ""
    with arcadedb.create_database(name) as database:
        if constraint:
            database.command("opencypher", "CREATE CONSTRAINT key FOR (n:N) REQUIRE n.id IS UNIQUE")
        for key in (5, "5"):
            try:
                with database.transaction():
                    database.command("opencypher", "CREATE (:N {id: $key})", {"key": key})
            except arcadedb.ArcadeDBError as error:
                said = str(error)
        return len(list(database.query("opencypher", QUERY))), said


free, nothing = nodes("free", False)
bound, refusal = nodes("bound", True)
print(f"{free} nodes without the constraint; with it: {bound}, then {refusal}")
assert (free, nothing) == (2, "")
assert bound == 1 and "DuplicatedKeyException" in refusal
PY
