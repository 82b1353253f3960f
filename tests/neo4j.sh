#!/bin/sh
# Starts a real Neo4j with `automc kg up`, as a user does, runs the tests that want one, and stops it.
# Usage: tests/neo4j.sh [--if-possible] [pytest arguments]
#   --if-possible  where Java or Maven is missing, say so and succeed; without it they are installed, or it fails.
#   PYTHON names the interpreter, NEO4J_FOLDER where the server's jars are kept for the next time.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${NEO4J_FOLDER:-${TMPDIR:-/tmp}/automc-neo4j}
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3
automc() { "$python" -c 'from automc.cli.main import main; main()' "$@"; }

ready() {
    command -v java >/dev/null || return 1
    ls -d "$folder"/lib-* >/dev/null 2>&1 || command -v mvn >/dev/null
}
if ! ready && [ "${1:-}" = --if-possible ]; then
    echo "================================================================================" >&2
    echo "NOT RUN: the tests on a real Neo4j. Java 17 or Maven is not here; to install them:" >&2
    echo "  apt-get install -y --no-install-recommends openjdk-17-jre-headless maven" >&2
    echo "================================================================================" >&2
    exit 0
fi
[ "${1:-}" != --if-possible ] || shift
if ! ready; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "tests/neo4j.sh: install Java 17 and Maven first." >&2
        exit 1
    fi
    apt-get update -q >/dev/null
    apt-get install -qy --no-install-recommends openjdk-17-jre-headless maven >/dev/null
fi

cd "$root"
mkdir -p "$folder"
AUTOMC_HOME=$(mktemp -d "$folder/run.XXXXXX")
export AUTOMC_HOME
unset AUTOMC_GRAPH AUTOMC_GRAPH_USER AUTOMC_GRAPH_PASSWORD AUTOMC_GRAPH_DATABASE
stop() {
    status=$?
    trap - EXIT INT TERM
    export AUTOMC_HOME="$run"
    automc kg down >/dev/null 2>&1 || :
    rm -rf "$run"
    exit "$status"
}
run=$AUTOMC_HOME
trap stop EXIT
trap 'exit 130' INT TERM

mkdir "$run/neo4j"
for lib in "$folder"/lib-*; do
    [ ! -d "$lib" ] || ln -s "$lib" "$run/neo4j/"
done
automc kg up --no-docker --port 0 >"$run/export"
for lib in "$run"/neo4j/lib-*; do
    [ -L "$lib" ] || cp -R "$lib" "$folder/"
done
. "$run/export"
automc kg status --format json >/dev/null

export AUTOMC_TEST_NEO4J="$AUTOMC_GRAPH" AUTOMC_TEST_NEO4J_JARS="$folder"
AUTOMC_GRAPH_PASSWORD=$(cat "$run/neo4j/password")
export AUTOMC_GRAPH_PASSWORD
unset AUTOMC_GRAPH AUTOMC_HOME
if [ $# -eq 0 ]; then
    set -- -m 'neo4j and not slow' tests/kg tests/cli tests/study
fi
"$python" -m pytest "$@"
