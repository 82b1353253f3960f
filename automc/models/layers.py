"""The layer table: what a model consists of, as plain arrays that need neither torch nor the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

Kind = Literal["conv", "depthwise", "grouped", "transposed", "linear"]
"""`grouped`: a convolution of several parts; `depthwise`: of one channel each."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or linear layer as it ran on one image.

    Kernels and outputs of more or less than two dimensions are folded into height and width; a linear layer has
    kernel 1×1, and as many positions as vectors went through it (1 behind pooling).
    """

    name: str
    kind: Kind
    inputs: int
    outputs: int
    kernel_h: int
    kernel_w: int
    stride: int
    """The largest of all axes."""
    out_h: int
    out_w: int
    groups: int
    params: int
    macs: int
    """Multiply-accumulates of one image, over all calls."""
    bits: int
    """In which each element of the weight is stored: 32 of a float."""
    rank: int
    """The inner width, of a layer that is one factor of a product; else 0."""
    reads: tuple[int, ...]
    """Numbers of the channel groups of its input: what shares a number only shrinks together. Empty: must stay."""
    writes: tuple[int, ...]
    """Those of its output."""


COLUMNS = tuple(field.name for field in fields(Layer))
"""Of the table, in their order."""
_SIDES = ("reads", "writes")


@dataclass(frozen=True, slots=True)
class LayerTable:
    """The layers of a model in the order in which they first ran, and which one's output reaches which.

    `edges` are pairs (producer, consumer) of places in `layers`, with only operations without weights between them.
    `missing` says why there are none, where the model could not be followed.
    """

    layers: tuple[Layer, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    missing: str = ""

    def as_dict(self) -> dict[str, Any]:
        """A list of numbers or of texts for each column, as files and the graph hold them; "reads": "0 5"."""
        columns: dict[str, Any] = {name: [getattr(layer, name) for layer in self.layers] for name in COLUMNS}
        for side in _SIDES:
            columns[side] = [" ".join(map(str, groups)) for groups in columns[side]]
        ends = {"edge_from": [a for a, _ in self.edges], "edge_to": [b for _, b in self.edges]}
        return columns | ends | {"missing": self.missing}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> LayerTable:
        """Read what `as_dict` gave."""
        sides = {side: [tuple(int(g) for g in groups.split()) for groups in table[side]] for side in _SIDES}
        rows = zip(*({**table, **sides}[name] for name in COLUMNS), strict=True)
        edges = zip(table["edge_from"], table["edge_to"], strict=True)
        return cls(tuple(Layer(*row) for row in rows), tuple(edges), table["missing"])


def compare(before: LayerTable, after: LayerTable) -> list[tuple[str, Layer | None, Layer | None]]:
    """Pair the layers of two tables: name, before, after. None on one side where a layer came or went.

    The order is that of `after`, with each layer that went behind the one that it followed.
    """
    old = {layer.name: layer for layer in before.layers}
    new = {layer.name: layer for layer in after.layers}
    names: list[str] = list(new)
    for place, name in enumerate(old):
        if name not in new:
            names.insert(_behind(names, list(old)[:place]), name)
    return [(name, old.get(name), new.get(name)) for name in names]


def _behind(names: Sequence[str], ahead: Sequence[str]) -> int:
    """The place behind the last of these that is there."""
    return next((names.index(name) + 1 for name in reversed(ahead) if name in names), 0)
