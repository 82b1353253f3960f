"""Neo4j Community without a container: its jars from Maven Central, run by the Java of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kg.errors import GraphUnavailable
from kg.store.lock import command_line

POM = Path(__file__).with_name("pom.xml")
LEAST_JAVA = 17
_NEWER_JAVA = 25

# Sizes suit a graph of some ten thousand nodes: about 0.8 GB of memory.
_CONF = """\
# Written once by `automc kg up`; yours from then on. Addresses and ports come from the command line.
server.bolt.enabled=true
server.http.enabled=false
server.https.enabled=false
dbms.usage_report.enabled=false
server.memory.heap.initial_size=512m
server.memory.heap.max_size=512m
server.memory.pagecache.size=128m
db.transaction.timeout=300s
"""
_OPENS = ("java.nio", "java.io", "sun.nio.ch")
_FOLDERS = ("conf", "data", "logs", "run", "plugins", "import")


def find_java() -> tuple[Path, int]:
    """Return a Java that can run Neo4j, and its major version: the one of JAVA_HOME, else the first on the PATH.

    Raises:
        GraphUnavailable: there is none, or it is older than 17.
    """
    old: list[str] = []
    for java in _candidates():
        try:
            said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
        except (OSError, subprocess.SubprocessError):
            continue
        match = re.search(r'version "(?:1\.)?(\d+)', said)
        if match and int(match.group(1)) >= LEAST_JAVA:
            return java, int(match.group(1))
        if match:
            old.append(f"{java} is Java {match.group(1)}")
    found = f" ({'; '.join(old)})" if old else ""
    raise GraphUnavailable(f"Neo4j needs Java {LEAST_JAVA} or newer, which is not here{found}. {install_hint()}")


def version_for(java: int) -> str:
    """Return the Neo4j that a major version of Java runs: 5.26.31 (long-term support), from Java 25 on 2026.07.1."""
    return "5.26.31" if java < _NEWER_JAVA else "2026.07.1"


def install_hint() -> str:
    """Return how to install Java and Maven here."""
    sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get"):
        return f"Install it: {sudo}apt-get install -y --no-install-recommends openjdk-17-jre-headless maven"
    if shutil.which("dnf"):
        return f"Install it: {sudo}dnf install -y java-21-openjdk-headless maven"
    if shutil.which("brew"):
        return "Install it: brew install openjdk@21 maven"
    return "Install Java 17 and Maven, or Docker."


def fetch(folder: Path, version: str, say: Callable[[str], None]) -> Path:
    """Return the folder with the jars of a Neo4j version, fetched with Maven where it is not there yet (130 MB).

    Raises:
        GraphUnavailable: Maven is missing or fails; what it says is in the message.
    """
    lib = folder / f"lib-{version}"
    if lib.is_dir():
        return lib
    maven = shutil.which("mvn")
    if maven is None:
        raise GraphUnavailable(f"Maven (mvn) is needed to fetch Neo4j {version}, and is not here. {install_hint()}")
    say(f"Fetching Neo4j {version} from Maven Central, once: about 130 MB.")
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=folder) as work:
        shutil.copyfile(POM, Path(work) / "pom.xml")
        command = [maven, "-q", "-B", "package", f"-Dneo4j.version={version}", f"-Dhome.dir={work}"]
        done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode or not (Path(work) / "lib").is_dir():
            raise GraphUnavailable(
                f"Maven could not fetch Neo4j {version}: {_told(done.stdout + done.stderr)}\n"
                f"Check the network and Maven's settings, or put the jars of that version into {lib} yourself."
            )
        try:
            (Path(work) / "lib").rename(lib)
        except OSError:
            # Somebody else was faster.
            if not lib.is_dir():
                raise
    return lib


def prepare(folder: Path, java: Path, lib: Path, password: Path) -> None:
    """Lay out the server's folder, and set the first password in a new one.

    Args:
        folder: of the server; its `data` is the database.
        password: a file with one line, which nobody else can read.

    Raises:
        GraphUnavailable: the password cannot be set.
    """
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    conf = folder / "conf" / "neo4j.conf"
    if not conf.exists():
        conf.write_text(_CONF, encoding="utf-8")
    if any((folder / "data" / name).exists() for name in ("databases", "dbms/auth.ini")):
        return
    # Through a file: a command line can be read by everybody on this machine.
    words = ["org.neo4j.server.startup.Neo4jAdminCommand", "dbms", "set-initial-password", f"@{password}"]
    done = subprocess.run(
        [str(java), "-cp", f"{lib}/*", f"-Dbasedir={folder}", *words],
        env={**os.environ, "NEO4J_HOME": str(folder)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise GraphUnavailable(f"Neo4j's first password cannot be set: {_told(done.stdout + done.stderr)}")


def launch(folder: Path, java: tuple[Path, int], lib: Path, version: str, port: int) -> int:
    """Start the server in a session of its own, so that it outlives this process; return its pid."""
    address = f"127.0.0.1:{port}"
    settings = {
        "server.default_listen_address": "127.0.0.1",
        "server.bolt.listen_address": address,
        "server.bolt.advertised_address": address,
    }
    newer = java[1] >= _NEWER_JAVA
    # The compiler and the collector suit a small server that shares its machine with training.
    flags = ["-Xms512m", "-Xmx512m", "-XX:+UseG1GC"]
    flags += [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENS]
    if newer:
        flags += ["--add-opens=java.base/java.util.concurrent=ALL-UNNAMED", "--enable-native-access=ALL-UNNAMED"]
        flags += ["--sun-misc-unsafe-memory-access=allow"]
    flags += ["-Dio.netty.tryReflectionSetAccessible=true", "-Dlog4j2.disable.jmx=true", "-Dfile.encoding=UTF-8"]
    main = "org.neo4j.server.CommunityEntryPoint" if version.startswith("5.") else "org.neo4j.server.Neo4jCommunity"
    command = [str(java[0]), *flags, "-cp", f"{folder}/plugins/*:{folder}/conf/*:{lib}/*", main]
    command += [f"--home-dir={folder}", f"--config-dir={folder / 'conf'}", "--console-mode"]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with console(folder).open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    # Known again by its command line, which the system tells only some milliseconds after the start.
    while process.poll() is None and not command_line(str(process.pid)):
        time.sleep(0.01)
    return process.pid


def console(folder: Path) -> Path:
    """Return the file with everything that the server has printed."""
    return folder / "logs" / "console.log"


def _candidates() -> list[Path]:
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    name = "java.exe" if sys.platform == "win32" else "java"
    return [*([Path(named) / "bin" / name] if named else []), *([Path(on_path)] if on_path else [])]


def _told(output: str) -> str:
    """Return the first lines that say what went wrong, else the last ones."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line]
    return " ".join(errors[:3] or lines[-3:]) or "it said nothing."
