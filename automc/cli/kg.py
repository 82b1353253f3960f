"""`automc kg`: the knowledge graph."""

from __future__ import annotations

import json
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from automc.cli import kg_ask, kg_server
from automc.cli import options as o
from automc.cli.output import Format, FormatOption, guarded, progress, say, show, show_json, show_record, write_file
from automc.errors import AutoMCError
from automc.files import claim, marked

if TYPE_CHECKING:
    from automc.knowledge import Prepared

app = typer.Typer(help="The knowledge graph: fill it, ask it, learn from it.", no_args_is_help=True)
for command in (kg_ask.query, kg_ask.explain, kg_server.up, kg_server.down, kg_server.logs, kg_server.copy):
    app.command(command.__name__)(command)

Seed = Annotated[int | None, typer.Option(help="Seed of the learning; without, any vectors at hand will do.")]


class ExportFormat(StrEnum):
    """How the whole graph is written."""

    json = "json"
    graphml = "graphml"
    csv = "csv"
    cypher = "cypher"


@app.command()
@guarded
def init(format: FormatOption = Format.table) -> None:
    """Make the graph of this home: apply the migrations, load method cards and published experience.

    Running it again changes nothing. AUTOMC_GRAPH=bolt://host:7687 names a Neo4j server; without it the graph is
    a folder in the AutoMC home.

    Example: automc kg init
    """
    from automc import knowledge

    prepared = knowledge.prepare()
    with knowledge.graph() as store:
        say(f"Graph: {store.kind}, {store.place}.")
    _show_prepared(prepared, format)


@app.command()
@guarded
def sync(format: FormatOption = Format.table) -> None:
    """Bring the graph up to the method cards and experience files, and say what changed.

    Example: automc kg sync
    """
    from automc import knowledge

    _show_prepared(knowledge.prepare(), format)


def _show_prepared(prepared: Prepared, format: Format) -> None:
    for migration in prepared.migrations:
        say(f"Applied migration {migration}.")
    rows = [
        (kind, changes.created, changes.updated, changes.removed, changes.unchanged)
        for kind, changes in prepared.sync.changes.items()
    ]
    show(("kind", "created", "updated", "removed", "unchanged"), rows, format)
    if not prepared.changed:
        say("Nothing changed.")


@app.command()
@guarded
def status(format: FormatOption = Format.table) -> None:
    """Say what the graph is and holds, whether migrations wait, and whether the embeddings are stale.

    Where this home has a server of `automc kg up`, also whether that runs.

    Example: automc kg status --format json
    """
    from automc import knowledge
    from automc.home import home
    from kg.store.server import find

    server = find(home())
    if server is not None:
        say(f"Server of this home: {server.describe()}.")
    said = knowledge.status()
    if format is not Format.json:
        said |= {f"{label} nodes": n for label, n in said.pop("nodes").items()}
    show_record(said, format)
    if said["pending_migrations"] or said.get("Method nodes") == 0:
        say("The graph is not up to date. Run `automc kg init`.")
    elif said["embedding"] != "fresh":
        say(f"Embeddings: {said['embedding']}. Run `automc kg embed`.")
        for change in said.get("changed_since_embedding", ()):
            say(f"  since then: {change}")


@app.command()
@guarded
def similar(
    strategy: Annotated[str, typer.Argument(help="A strategy, such as 'NS[HP1=0.2,HP2=0.12,HP6=0.9]'.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    method: Annotated[str | None, typer.Option(help="Only strategies of this method.")] = None,
    format: FormatOption = Format.table,
) -> None:
    """List the strategies whose embeddings are nearest to one, by cosine.

    Example: automc kg similar 'NS[HP1=0.2,HP2=0.12,HP6=0.9]' --method SFP
    """
    from automc import knowledge
    from automc.knowledge.known import known_method
    from automc.knowledge.words import in_words
    from kg.schema import Strategy

    only = known_method(method).id if method else None
    found = knowledge.similar(strategy, k, only)
    if format is Format.table:
        words = [(f"{cosine:.3f}", f"{name}\n{in_words(Strategy.parse(name))}") for name, cosine in found]
        show(("cosine", "strategy"), words, format)
    else:
        show(("strategy", "cosine"), found, format)
    say("Near means alike in method, techniques and settings, neighbouring values more than others, and in results.")


@app.command()
@guarded
def embed(
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; 40 from nothing, 20 going on.")] = None,
    seed: Seed = None,
    full: Annotated[bool, typer.Option("--full", help="Learn from nothing.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Measure the quality instead; takes minutes.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Learn the strategies' embeddings from the graph and write them back (AutoMC paper, Algorithm 1).

    Where nothing changed since they were learned, they stay as they are. Where strategies or experience came or
    went, learning continues from the old vectors, which hardly move; --full learns all anew. --report measures
    whether settings can be read and neighbours are right, held-out links and AR of left-out papers, and writes nothing.

    Example: automc kg embed --epochs 100 --seed 0
    """
    from automc import knowledge

    with progress("embedding") as tell:
        if report:
            measured = knowledge.quality(epochs=epochs or knowledge.EPOCHS, seed=seed or 0, progress=tell)
        else:
            vectors = knowledge.vectors(epochs=epochs, seed=seed, full=full, progress=tell, say=say)
    if report:
        _show_report(measured, format)
        return
    show_record(
        {
            "strategies": len(vectors.strategies),
            "seed": vectors.seed,
            "epochs": vectors.epochs,
            "continued_from": vectors.continued_from,
            "new_strategies": vectors.new_strategies,
            "fingerprint": vectors.fingerprint,
            "first_guess": "law by size" if vectors.guess else "none",
        },
        format,
    )


def _show_report(measured: dict[str, Any], format: Format) -> None:
    """Nested figures as `part.name` rows; JSON keeps them nested."""

    def rows(prefix: str, value: Any) -> list[tuple[str, Any]]:
        if not isinstance(value, dict):
            return [(prefix, value)]
        return [row for name, item in value.items() for row in rows(f"{prefix}.{name}" if prefix else str(name), item)]

    if format is Format.json:
        show_json(measured)
    else:
        show(("figure", "value"), rows("", measured), format)


@app.command()
@guarded
def export(
    out: Annotated[Path | None, typer.Option(help="A file, or a folder for csv; without, stdout.")] = None,
    format: Annotated[ExportFormat, typer.Option("--format", help="csv needs --out.")] = ExportFormat.json,
    force: o.Force = False,
) -> None:
    """Write the whole graph: JSON, GraphML (for networkx, Gephi, yEd), nodes.csv and relationships.csv, or Cypher.

    The Cypher rebuilds it in an empty store: automc kg query --write --file FILE, or cypher-shell --file FILE.

    Example: automc kg export --format graphml --out graph.graphml
    """
    from automc import knowledge
    from automc.knowledge.store import as_script

    if format is ExportFormat.csv and out is None:
        raise AutoMCError("csv is two files. Name their folder: --out FOLDER.")
    if out is not None:
        _claim(out, format, force)
    if format is ExportFormat.cypher:
        text, counts = as_script()
    else:
        nodes, rels = knowledge.contents()
        counts = len(nodes), len(rels)
        if format is ExportFormat.csv:
            assert out is not None
            write_file(out / "nodes.csv", _csv([_scalars(node) for node in nodes]))
            flat = [{k: v for k, v in rel.items() if k != "properties"} | _scalars(rel["properties"]) for rel in rels]
            write_file(out / "relationships.csv", _csv(flat))
        else:
            text = _json(nodes, rels) if format is ExportFormat.json else _graphml(nodes, rels)
    if out is None:
        print(text)
    elif format is not ExportFormat.csv:
        write_file(out, text)
    say(f"{counts[0]:,} nodes and {counts[1]:,} relationships.")


def _claim(out: Path, format: ExportFormat, force: bool) -> None:
    """Refuse to write over what is no earlier export in this format."""
    name = f"what automc kg export --format {format} wrote"
    if format is ExportFormat.csv:
        claim(out / "nodes.csv", marked(name, "_label"), force=force)
        claim(out / "relationships.csv", marked(name, "from_label"), force=force)
        return
    marks = {
        ExportFormat.json: '"from_label"',
        ExportFormat.graphml: "graphml.graphdrawing.org",
        ExportFormat.cypher: "SET n += row",
    }
    claim(out, marked(name, marks[format]), force=force)


def _json(nodes: list[dict[str, Any]], rels: list[dict[str, Any]]) -> str:
    return json.dumps({"nodes": nodes, "relationships": rels}, ensure_ascii=False, indent=1)


def _csv(rows: list[dict[str, Any]]) -> str:
    import csv
    from io import StringIO

    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _graphml(nodes: list[dict[str, Any]], rels: list[dict[str, Any]]) -> str:
    """Ids are unique within a label only, so a node is named Label:id."""
    import networkx

    graph = networkx.MultiDiGraph()
    for node in nodes:
        graph.add_node(f"{node['_label']}:{node['id']}", **_scalars(node))
    for rel in rels:
        ends = (f"{rel['from_label']}:{rel['from_id']}", f"{rel['to_label']}:{rel['to_id']}")
        graph.add_edge(*ends, type=rel["type"], **_scalars(rel["properties"]))
    file = BytesIO()
    networkx.write_graphml(graph, file)
    return file.getvalue().decode()


def _scalars(properties: dict[str, Any]) -> dict[str, Any]:
    """What GraphML and CSV can hold: lists and maps become JSON text, and what is absent is left out."""
    return {
        name: json.dumps(value) if isinstance(value, list | dict) else value
        for name, value in properties.items()
        if value is not None
    }
