"""Where the layer tables of trials are kept in the graph: what each design costs, on the embedded store.

    python -m benchmarks.layer_store [--trials 1000 10000] [--designs none table] [--out docs/results/layer-store]

A made-up study of n trials, each with ResNet-20's table in random widths. A design runs in a process of its own:
"none" without tables, "nodes" a node for each layer, "property" lists on the trial, "table" one node of lists beside it.
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from automc.models.layers import COLUMNS, LayerTable
from benchmarks.history import trials
from kg import nodes
from kg.store import GraphStore
from kg.store.arcade import ArcadeStore

DESIGNS = ("none", "table", "property", "nodes")
FIGURES = ("write_ms", "disk_mb", "show_s", "status_s", "query_s", "delete_s")
PAGE = 200
QUERIES = {
    "nodes": "MATCH (t:Trial)-[:HAS_LAYER]->(l:Layer) RETURN l.name AS name, avg(l.params) AS params",
    "property": "MATCH (t:Trial) UNWIND range(0, size(t.l_name) - 1) AS i "
    "RETURN t.l_name[i] AS name, avg(t.l_params[i]) AS params",
    "table": "MATCH (t:Trial)-[:HAS_LAYERS]->(l:Layers) UNWIND range(0, size(l.name) - 1) AS i "
    "RETURN l.name[i] AS name, avg(l.params[i]) AS params",
}


def table_of(model: LayerTable, rng: np.random.Generator) -> dict[str, list[Any]]:
    """Return the columns of a table of this model in other widths, group numbers as text."""
    layers = [replace(layer, params=int(layer.params * rng.uniform(0.3, 1))) for layer in model.layers]
    found = replace(model, layers=tuple(layers)).as_dict()
    columns = {name: found[name] for name in COLUMNS}
    for side in ("reads", "writes"):
        columns[side] = [" ".join(map(str, groups)) for groups in columns[side]]
    return columns


def write(store: GraphStore, design: str, page: list[dict[str, Any]], tables: list[dict[str, list[Any]]]) -> None:
    """Write trials and their tables in one transaction."""
    ids = [f"s/{trial['ordinal']}" for trial in page]
    rows = [
        nodes.encode({k: v for k, v in t.items() if k != "scheme"}) | {"id": id}
        for t, id in zip(page, ids, strict=True)
    ]
    with store.transaction():
        if design == "property":
            for row, columns in zip(rows, tables, strict=True):
                row |= {f"l_{name}": values for name, values in columns.items()}
        store.upsert_nodes("Trial", rows)
        store.upsert_rels("IN_STUDY", "Trial", "Study", [{"from": id, "to": "s"} for id in ids])
        if design == "nodes":
            layers = [
                {"trial": id, "id": f"{id}/{i}", "props": {name: values[i] for name, values in columns.items()}}
                for id, columns in zip(ids, tables, strict=True)
                for i in range(len(columns["name"]))
            ]
            store.write(
                "UNWIND $rows AS row MATCH (t:Trial {id: row.trial}) MERGE (l:Layer {id: row.id}) SET l += row.props "
                "MERGE (t)-[:HAS_LAYER]->(l)",
                {"rows": layers},
            )
        elif design == "table":
            store.write(
                "UNWIND $rows AS row MATCH (t:Trial {id: row.id}) MERGE (l:Layers {id: row.id}) SET l += row.props "
                "MERGE (t)-[:HAS_LAYERS]->(l)",
                {"rows": [{"id": id, "props": columns} for id, columns in zip(ids, tables, strict=True)]},
            )


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def delete(store: GraphStore, design: str, n: int) -> None:
    """Remove the study's trials and their tables, in pages."""
    of = {"nodes": "-[:HAS_LAYER]->(l:Layer)", "table": "-[:HAS_LAYERS]->(l:Layers)"}.get(design)
    for start in range(n, 0, -1000):
        ids = [f"s/{i}" for i in range(start, max(0, start - 1000), -1)]
        with store.transaction():
            if of:
                store.write(f"UNWIND $ids AS id MATCH (t:Trial {{id: id}}){of} DETACH DELETE l", {"ids": ids})
            store.write("UNWIND $ids AS id MATCH (t:Trial {id: id}) DETACH DELETE t", {"ids": ids})


def measure(design: str, n: int) -> dict[str, float]:
    """Fill a store of its own, and take the figures."""
    import torch

    from automc.models import load
    from automc.surgery.layer_table import layer_table

    model = layer_table(load.load("resnet20").model, torch.zeros(2, 3, 32, 32))
    rng = np.random.default_rng(0)
    made = list(trials(n))
    with tempfile.TemporaryDirectory() as place, ArcadeStore(Path(place) / "graph") as store:
        for label in ("Study", "Trial", "Layer", "Layers"):
            store.schema(f"CREATE CONSTRAINT {label.lower()}_id IF NOT EXISTS FOR (n:{label}) REQUIRE n.id IS UNIQUE")
        store.upsert_nodes("Study", [{"id": "s"}])
        alone = n - PAGE
        for start in range(0, alone, PAGE):
            page = made[start : start + PAGE]
            write(store, design, page, [table_of(model, rng) for _ in page])
        tables = [table_of(model, rng) for _ in made[alone:]]
        singly = [timed(partial(write, store, design, [t], [c])) for t, c in zip(made[alone:], tables, strict=True)]
        ids = [f"s/{t['ordinal']}" for t in made]

        def show() -> None:
            for start in range(0, n, 1000):
                store.read(
                    "UNWIND $ids AS id MATCH (t:Trial {id: id}) RETURN properties(t) AS p",
                    {"ids": ids[start : start + 1000]},
                )

        figures = {
            "write_ms": 1000 * float(np.median(singly)),
            "show_s": timed(show),
            "status_s": timed(lambda: store.read("MATCH (n) RETURN labels(n)[0] AS label, count(n) AS n", timeout=600)),
        }
        if design in QUERIES:
            figures["query_s"] = timed(lambda: store.read(QUERIES[design], timeout=600))
        figures["disk_mb"] = sum(f.stat().st_size for f in Path(place).rglob("*") if f.is_file()) / 1e6
        figures["delete_s"] = timed(lambda: delete(store, design, n))
        return figures


def page(out: Path) -> str:
    """Return the page of the rows."""
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        "# Where layer tables are kept", "",
        "A made-up study of n trials on the embedded store, each with the table of a ResNet-20 in random widths (20 layers;",
        f"`python -m benchmarks.layer_store`; {rows[0]['machine']}; seed 0, one run each on a busy machine). Written:",
        "the median of the last 200 trials, a transaction each. Shown: the properties of all trials are read. Counted: nodes",
        "by label. Asked: the mean parameters by layer, over all trials.", "",
        "| design | trials | write, ms a trial | on disk, MB | show, s | count, s | ask, s | delete, s |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in sorted(rows, key=lambda r: (int(r["trials"]), DESIGNS.index(r["design"]))):
        cells = [
            f"{float(row[f]):.1f}" if row[f] else ""
            for f in ("write_ms", "disk_mb", "show_s", "status_s", "query_s", "delete_s")
        ]
        lines.append(f"| {row['design']} | {int(row['trials']):,} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", (out / "note.md").read_text() if (out / "note.md").exists() else ""])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--out", type=Path, default=Path("docs/results/layer-store"))
    parser.add_argument("--one", nargs=2, help="a design and a number of trials; prints figures")
    given = parser.parse_args()
    if given.one:
        print(*[f"{name}={value}" for name, value in measure(given.one[0], int(given.one[1])).items()])
        return
    given.out.mkdir(parents=True, exist_ok=True)
    rows = given.out / "runs.csv"
    done = {(r["design"], int(r["trials"])) for r in csv.DictReader(rows.open())} if rows.exists() else set()
    machine = f"{platform.machine()}, 2 cores, Python {platform.python_version()}"
    with rows.open("a", newline="") as file:
        writer = csv.DictWriter(file, ("design", "trials", *FIGURES, "machine"), lineterminator="\n")
        if not done:
            writer.writeheader()
        for n in given.trials:
            for design in (d for d in given.designs if (d, n) not in done):
                command = [sys.executable, "-m", "benchmarks.layer_store", "--one", design, str(n)]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                figures = {name: f"{float(value):.3f}" for name, value in (pair.split("=") for pair in told)}
                writer.writerow({"design": design, "trials": n, "machine": machine, **figures})
                file.flush()
                print(design, n, figures, file=sys.stderr)
    (given.out / "README.md").write_text(page(given.out))


if __name__ == "__main__":
    main()
