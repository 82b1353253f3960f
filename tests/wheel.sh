#!/usr/bin/env bash
# Build the wheel, install it into a fresh environment outside the checkout, and use it there.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
"$root/.venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps -w "$work/dist" "$root"
python3 -m venv "$work/venv"
# The dependencies are those of the checkout's environment: only the wheel itself is new here.
site="$("$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
own="$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$work"/dist/automc-*.whl
for entry in "$site"/*; do
  case "$(basename "$entry")" in automc*|_automc*|__editable__*|*.pth) continue ;; esac
  [ -e "$own/$(basename "$entry")" ] || ln -s "$entry" "$own/"
done
cd "$work"
unset PYTHONPATH AUTOMC_GRAPH
export AUTOMC_HOME="$work/home"
"$work/venv/bin/python" - <<'PY'
import pathlib, sys, automc, kg
from kg import resources
for module in (automc, kg):
    assert pathlib.Path(module.__file__).is_relative_to(sys.prefix), module.__file__
assert list(resources.methods_dir().glob("*.yaml")) and list(resources.experience_dir().glob("*.yaml"))
assert len(list(resources.vectors_dir().glob("*.safetensors"))) == 1
assert list(resources.migrations_dir().glob("*.cypher")) and resources.compose_file().is_file()
from kg.store import java
assert java.POM.is_file()
site = pathlib.Path(kg.__file__).parents[1]
assert not [name for name in ("data", "migrations", "benchmarks", "tests") if (site / name).exists()]
PY
"$work/venv/bin/automc" kg init
"$work/venv/bin/automc" kg query 'MATCH (s:Strategy {searchable: true}) RETURN count(s) AS n' --format csv | grep -qx 4750
echo "the wheel works on its own"
