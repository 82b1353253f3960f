"""The layer tables of a table's schemes, as far as something can follow them: NAME.layers.json.gz beside NAME.json.

    python -m benchmarks.tab.structures benchmarks/tab/step-tree-584.json
    python -m benchmarks.tab.structures benchmarks/tab/NAME.json --made FOLDER/NAME.json --model MODEL.am

The first builds the networks of the tree anew, without training: what its prototype did to each width and rank follows
from how many parameters were left, exactly in all 258 schemes without a ranking over the whole network, whose widths hang
on weights that were not kept. The second reads the models in the prefix cache of `generate.py`, or of running it again up to
one step less than the table's (its `--cache` beside `--made`): a scheme whose step came out with other parameters or
FLOPs than in the table, because its method has changed since, is left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from automc.models import structure
from automc.models.layers import LayerTable
from automc.search.base import SchemeIndices
from automc.surgery.layer_table import layer_table
from benchmarks.tab.table import TREE, read_rows

PRUNED = {0: 0.1, 1: 0.25, 2: 0.25, 5: 0.4}
"""Strategies of the tree that prune each width by a share."""
FACTORED, DISTILLED, KEPT_RANK = 6, 7, 0.6


@dataclass(frozen=True)
class Widths:
    """A network of the tree: widths of the three stages and inside their blocks, and inner ranks of the 3×3 layers."""

    stages: tuple[int, ...] = (16, 32, 64)
    inside: tuple[int, ...] = (16, 32, 64)
    ranks: tuple[tuple[int, ...], ...] = ((),) * 6

    def ends(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the six 3×3 layers in blocks."""
        before = (self.stages[0], *self.stages[:2])
        halves = zip(before, self.inside, self.stages, strict=True)
        return [pair for a, b, c in halves for pair in ((a, b), (b, c))]

    def after(self, strategy: int) -> Widths:
        """What a strategy leaves."""
        if strategy == DISTILLED:
            return self
        if strategy == FACTORED:
            first = [(9 * i, ranks[0] if ranks else o) for (i, o), ranks in zip(self.ends(), self.ranks, strict=True)]
            inner = [int(KEPT_RANK * min(pair)) for pair in first]
            return replace(self, ranks=tuple((r, *old) for r, old in zip(inner, self.ranks, strict=True)))

        def cut(widths: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(int(n * (1 - PRUNED[strategy])) for n in widths)

        return Widths(cut(self.stages), cut(self.inside), tuple(map(cut, self.ranks)))


class Tree(nn.Module):
    """The ResNet-8 of the tree with given widths; its weights mean nothing."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        ends = widths.ends()
        self.stem = nn.Sequential(nn.Conv2d(3, widths.stages[0], 3, padding=1, bias=False), nn.BatchNorm2d(ends[0][0]))
        strides = (1, 1, 2, 1, 2, 1)
        self.convs = nn.ModuleList(
            _factored(i, o, ranks, stride) for (i, o), ranks, stride in zip(ends, widths.ranks, strides, strict=True)
        )
        self.shortcuts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1, stride=2, bias=False), nn.BatchNorm2d(b))
            for a, b in pairwise(widths.stages)
        )
        self.fc = nn.Linear(widths.stages[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (n, 10), of images (n, 3, h, w)."""
        x = torch.relu(self.stem(x))
        for block in range(3):
            inner = self.convs[2 * block + 1](torch.relu(self.convs[2 * block](x)))
            x = torch.relu(inner + (self.shortcuts[block - 1](x) if block else x))
        return torch.as_tensor(self.fc(x.mean(dim=(2, 3))))


def _factored(inputs: int, outputs: int, ranks: tuple[int, ...], stride: int) -> nn.Sequential:
    """A 3×3 convolution through inner ranks, and its norm."""
    widths = (*ranks, outputs)
    layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, stride=stride, padding=1, bias=False)]
    layers += [nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs))


def of_tree(path: Path, longest: int) -> Iterator[tuple[SchemeIndices, LayerTable]]:
    """Yield the schemes of the tree that can be built anew, START first.

    Raises:
        SystemExit: a network has other parameters than the table says.
    """
    rows = {tuple(row["seq"]): row["par"] for row in read_rows(path)}
    known: dict[SchemeIndices, Widths] = {(): Widths()}
    for scheme in sorted(rows, key=len):
        if len(scheme) <= longest and scheme[:-1] in known and scheme[-1] in {*PRUNED, FACTORED, DISTILLED}:
            known[scheme] = known[scheme[:-1]].after(scheme[-1])
    for scheme, widths in known.items():
        model = Tree(widths).eval()
        params = sum(p.numel() for p in model.parameters())
        if scheme and params != rows[scheme]:
            raise SystemExit(f"{scheme} has {params} parameters when built anew, {rows[scheme]} in {path}.")
        yield scheme, layer_table(model, torch.zeros(2, 3, 16, 16))


def of_cache(path: Path, made: Path, base: Path, longest: int) -> Iterator[tuple[SchemeIndices, LayerTable]]:
    """Yield START, and the schemes whose steps are in the prefix cache beside `made`, and came out as in the table."""
    folder = made.with_suffix(".cache")
    model_of: dict[tuple[float, ...], Path] = {}
    for file in folder.glob("outcomes/*/*.json"):
        found = json.loads(file.read_text())
        if found["status"] == "ok":
            figures = found["accuracy"], found["params"], found["flops"], round(found["seconds"], 4)
            model_of[figures] = folder / "weights" / f"{file.stem}.am"
    start = structure.read(base)
    channels = len(start.normalisation[0]) if start.normalisation else 3
    example = torch.zeros(2, channels, *start.metadata["image_shape"])
    yield (), layer_table(start.model, example)
    here = {tuple(row["seq"]): (row["par"], row["flops"]) for row in read_rows(path) if row.get("status") == "ok"}
    for row in read_rows(made):
        figures = row["acc"], row["par"], row["flops"], row["t"]
        if len(row["seq"]) <= longest and here.get(tuple(row["seq"])) == figures[1:3] and figures in model_of:
            yield tuple(row["seq"]), layer_table(structure.read(model_of[figures]).model, example)


def save(path: Path, tables: dict[SchemeIndices, LayerTable]) -> Path:
    """Write the layer tables beside a table, each distinct one once."""
    distinct: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    for scheme, table in tables.items():
        columns = table.as_dict()
        if columns not in distinct:
            distinct.append(columns)
        places[" ".join(map(str, scheme))] = distinct.index(columns)
    file = path.with_suffix(".layers.json.gz")
    with file.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write(json.dumps({"of": places, "tables": distinct}, separators=(",", ":")).encode())
    return file


def load(path: Path) -> dict[SchemeIndices, LayerTable]:
    """Read the layer tables beside a table, by scheme; START's is that of ()."""
    with gzip.open(path.with_suffix(".layers.json.gz"), "rt") as stream:
        held = json.load(stream)
    tables = [LayerTable.from_dict(columns) for columns in held["tables"]]
    return {tuple(int(i) for i in scheme.split()): tables[place] for scheme, place in held["of"].items()}


def main() -> None:
    """Find the layer tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--made", type=Path, help="NAME.json of generate.py whose prefix cache holds the steps")
    parser.add_argument("--model", type=Path, help="the .am file that it started from")
    options = parser.parse_args()
    if (options.made is None) != (options.model is None):
        parser.error("--made and --model go together")
    if options.made is None and options.table.stem != TREE.stem:
        parser.error(f"only the networks of {TREE.stem} can be built anew; for {options.table.stem} say --made")
    longest = int(json.loads(options.table.read_text())["depth"]) - 1
    if options.made:
        tables = dict(of_cache(options.table, options.made, options.model, longest))
    else:
        tables = dict(of_tree(options.table, longest))
    file = save(options.table, tables)
    of = 1 + sum(len(row["seq"]) <= longest for row in read_rows(options.table))
    print(f"{len(tables)} of {of} schemes -> {file}, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
