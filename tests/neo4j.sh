#!/bin/sh
# Runs the store tests against a real Neo4j Community server, which it fetches with Maven and starts on a free port.
# Usage: tests/neo4j.sh [pytest arguments]     PYTHON names the interpreter, NEO4J_FOLDER where the server is kept.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${NEO4J_FOLDER:-${TMPDIR:-/tmp}/automc-neo4j}
home=$folder/home
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=python3

if ! command -v java >/dev/null || { [ ! -d "$home/lib" ] && ! command -v mvn >/dev/null; }; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "tests/neo4j.sh: install Java 17 and Maven first." >&2
        exit 1
    fi
    apt-get update -q >/dev/null
    apt-get install -qy --no-install-recommends openjdk-17-jre-headless maven >/dev/null
fi

if [ ! -d "$home/lib" ]; then
    mkdir -p "$folder/build"
    cp "$root/tests/neo4j/pom.xml" "$folder/build/"
    (cd "$folder/build" && mvn -q -B package -Dhome.dir="$folder/fetched") >&2
    mkdir -p "$home"
    mv "$folder/fetched/lib" "$home/lib"
fi

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
password=$("$python" -c 'import secrets; print(secrets.token_hex(12))')
run=$(mktemp -d "$folder/run.XXXXXX")
mkdir "$run/conf" "$run/data" "$run/logs" "$run/run" "$run/plugins" "$run/import"
ln -s "$home/lib" "$run/lib"
cat >"$run/conf/neo4j.conf" <<CONF
server.default_listen_address=127.0.0.1
server.bolt.enabled=true
server.bolt.listen_address=127.0.0.1:$port
server.bolt.advertised_address=127.0.0.1:$port
server.http.enabled=false
server.https.enabled=false
dbms.usage_report.enabled=false
server.memory.heap.initial_size=512m
server.memory.heap.max_size=512m
server.memory.pagecache.size=128m
db.transaction.timeout=300s
CONF

server=
stop() {
    status=$?
    trap - EXIT INT TERM
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || :
    rm -rf "$run"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT TERM

NEO4J_HOME=$run java -cp "$home/lib/*" -Dbasedir="$run" org.neo4j.server.startup.Neo4jAdminCommand \
    dbms set-initial-password "$password" >/dev/null
java -Xms512m -Xmx512m -XX:+UseG1GC \
    --add-opens=java.base/java.nio=ALL-UNNAMED --add-opens=java.base/java.io=ALL-UNNAMED \
    --add-opens=java.base/sun.nio.ch=ALL-UNNAMED \
    -Dio.netty.tryReflectionSetAccessible=true -Dlog4j2.disable.jmx=true -Dfile.encoding=UTF-8 \
    -cp "$run/plugins/*:$run/conf/*:$home/lib/*" org.neo4j.server.CommunityEntryPoint \
    --home-dir="$run" --config-dir="$run/conf" --console-mode >"$run/console.log" 2>&1 &
server=$!

export AUTOMC_TEST_NEO4J="bolt://127.0.0.1:$port" AUTOMC_GRAPH_USER=neo4j AUTOMC_GRAPH_PASSWORD="$password"
cd "$root"
if ! "$python" - "$server" <<'PY'
import os, sys, time
from neo4j import GraphDatabase
auth = (os.environ["AUTOMC_GRAPH_USER"], os.environ["AUTOMC_GRAPH_PASSWORD"])
deadline = time.monotonic() + 60
while True:
    os.kill(int(sys.argv[1]), 0)
    try:
        with GraphDatabase.driver(os.environ["AUTOMC_TEST_NEO4J"], auth=auth) as driver, driver.session() as session:
            sys.exit(session.run("RETURN 1").single()[0] - 1)
    except Exception:
        if time.monotonic() > deadline:
            raise
    time.sleep(0.3)
PY
then
    echo "tests/neo4j.sh: the server did not start:" >&2
    tail -n 20 "$run/console.log" >&2
    exit 1
fi

if [ $# -eq 0 ]; then
    set -- -m neo4j tests/kg
fi
status=0
"$python" -m pytest "$@" || status=$?
exit "$status"
