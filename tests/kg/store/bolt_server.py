"""An ArcadeDB server with its Bolt listener: prints "port N", and ends when its standard input is closed."""

import socket
import sys

import arcadedb_embedded


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


port = free_port()
server = arcadedb_embedded.create_server(
    sys.argv[1],
    "only-for-tests",
    {
        "server_plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
        "bolt_port": port,
        "http_port": free_port(),
        "host": "127.0.0.1",
    },
)
server.start()
server.create_database("tests")
sys.stdout.write(f"port {port}\n")
sys.stdout.flush()
sys.stdin.read()
server.stop()
