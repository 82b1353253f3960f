"""A model of steps that reads the layers of the model before them: a graph network on the residual of another model.

After Chen et al. (AAAI 2021, arXiv 2004.08423), who let a graph convolution predict the accuracy of a network from its
graph; sizes and features are ours. Nodes are the rows of the layer table, edges lead from a layer to those that its output
reaches, and back. What it is worth: docs/results/graph-network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from automc.models.layers import Layer, LayerTable
from automc.search.base import FloatArray, Indices, Limits, Outcome, SchemeIndices, Space
from automc.search.linear import LinearModel
from automc.search.network import NetModel, StepNet

FEATURES, WIDTH, DEPTH = 16, 32, 3
KINDS = ("conv", "depthwise", "grouped", "linear")
Tables = Mapping[SchemeIndices, LayerTable]


class GraphNet(StepNet):
    """F_mo's network beside three graph convolutions over the layers, whose mean and maximum join the prefix's state.

    A convolution is h + ReLU(LN(Â h W)), Â being the links with their transpose and the diagonal, rows divided by their
    sums; so the order of layers is of no account.
    """

    def __init__(self, strategy_size: int, task_size: int) -> None:
        super().__init__(strategy_size, task_size)
        hidden = self.out.in_features
        self.first = nn.Linear(FEATURES, WIDTH)
        self.mixing = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(DEPTH))
        self.read = nn.Linear(2 * WIDTH, hidden)
        self.of_prefix = nn.Linear(2 * hidden + 2, hidden, bias=False)

    def encode(self, prefixes: Tensor, lengths: Tensor, figures: Tensor, *layers: Tensor) -> Tensor:
        """Return the encoder's state after each prefix, its figures, and what was read of its layers; (p, size).

        Args:
            layers: features (p, nodes, 16), links (p, nodes, nodes) with rows that sum to 1, or to 0 where a place is
                empty.
        """
        nodes, links = layers
        there = links.sum(dim=2, keepdim=True)
        state = self.first(nodes)
        for mixing, norm in zip(self.mixing, self.norms, strict=True):
            state = state + torch.relu(norm(links @ mixing(state)))
        mean = (state * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        most = torch.where(there > 0, state, -torch.inf).amax(dim=1)
        read = torch.relu(self.read(torch.cat([mean, torch.where(most > -torch.inf, most, 0.0)], dim=1)))
        return torch.cat([super().encode(prefixes, lengths, figures), read], dim=1)


class GraphModel(NetModel):
    """Predicts the residual of the linear model from layers, scheme and strategy; where layers are unknown, none.

    Deterministic for a seed, the rounds told and the number of threads.
    """

    def __init__(
        self, space: Space, limits: Limits, seed: int, tables: Tables, *, edges: bool = True, steps: int = 40
    ) -> None:  # fmt: skip
        """Start as the linear model.

        Args:
            tables: layers of measured models by scheme, START's included. What is not there, or has no layers, is
                predicted by the linear model.
            edges: False leaves each layer alone.
        """
        self.linear = LinearModel(space, limits)
        self._start = {layer.name: layer for layer in tables[()].layers} if () in tables else {}
        self._graphs = {
            scheme: (features(table.layers, self._start), links(table, edges))
            for scheme, table in tables.items()
            if table.layers
        }
        self._most = max((len(nodes) for nodes, _ in self._graphs.values()), default=1)
        super().__init__(space, limits, seed, self.linear, steps)

    def predict(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return (step AR, step PR) of every strategy, or of those `among` them, after each prefix; (p, s, 2)."""
        of_linear = self.linear.predict(prefixes, among)
        return np.where(self._known(prefixes)[:, None, None], super().predict(prefixes, among), of_linear)

    def pairs(self, prefixes: Sequence[Outcome], strategies: Indices) -> FloatArray:
        """Return (step AR, step PR) of one strategy after each measured prefix; (p, 2)."""
        of_linear = self.linear.pairs(prefixes, strategies)
        return np.where(self._known(prefixes)[:, None], super().pairs(prefixes, strategies), of_linear)

    def spread(self, prefixes: Sequence[Outcome], among: Indices | None = None) -> FloatArray:
        """Return the linear posterior's deviation of every step's AR; (p, s)."""
        return self.linear.spread(prefixes, among)

    def learn(self, steps: Sequence[tuple[Outcome, Outcome]]) -> float:
        """Train the linear model on all steps told so far, the network on those after known layers."""
        loss = self.linear.learn(steps)
        known = self._known([parent for parent, _ in steps])
        return super().learn([step for step, there in zip(steps, known, strict=True) if there]) or loss

    def _built(self, strategy_size: int, task_size: int) -> StepNet:
        return GraphNet(strategy_size, task_size)

    def _known(self, prefixes: Sequence[Outcome]) -> npt.NDArray[np.bool_]:
        return np.array([o.scheme in self._graphs for o in prefixes], dtype=bool)

    def _inputs(self, prefixes: Sequence[Outcome]) -> tuple[Tensor, ...]:
        nodes = np.zeros((len(prefixes), self._most, FEATURES), dtype=np.float32)
        weights = np.zeros((len(prefixes), self._most, self._most), dtype=np.float32)
        for place, outcome in enumerate(prefixes):
            if outcome.scheme in self._graphs:
                own, between = self._graphs[outcome.scheme]
                nodes[place, : len(own)] = own
                weights[place, : len(own), : len(own)] = between
        return (*super()._inputs(prefixes), torch.from_numpy(nodes), torch.from_numpy(weights))


def features(layers: Sequence[Layer], start: Mapping[str, Layer]) -> FloatArray:
    """Return what is told of each layer, (layers, 16), all of the order of 1.

    Kind, logarithms of inputs, outputs, kernel and positions, stride, shares of the model's MACs and parameters, share of
    the outputs that it has of M's layer of that place, share of its rank, bits, place, and whether it must stay.
    """
    macs, params = (max(1, sum(getattr(layer, name) for layer in layers)) for name in ("macs", "params"))
    rows = []
    for place, layer in enumerate(layers):
        before = _origin(layer.name, start)
        full = max(1, min(layer.inputs, layer.outputs) if not before else min(before.inputs, before.outputs))
        rows.append([
            *(float(kind == layer.kind) for kind in KINDS),
            np.log(layer.inputs) / 4, np.log(layer.outputs) / 4, np.log(layer.kernel_h * layer.kernel_w),
            np.log(layer.out_h * layer.out_w) / 4, layer.stride - 1,
            len(layers) / 4 * layer.macs / macs, len(layers) / 4 * layer.params / params,
            layer.outputs / before.outputs if before else 1.0, layer.rank / full, layer.bits / 32,
            place / len(layers), float(not layer.reads and not layer.writes),
        ])  # fmt: skip
    return np.array(rows, dtype=np.float32)


def _origin(name: str, start: Mapping[str, Layer]) -> Layer | None:
    """The layer of M at whose place a layer is: that of its own name, or of what was put in there."""
    while name and name not in start:
        name = name.rpartition(".")[0]
    return start.get(name)


def links(table: LayerTable, edges: bool) -> FloatArray:
    """Return the links of layers with themselves and both ways, each row divided by its sum; (layers, layers)."""
    between = np.eye(len(table.layers))
    for a, b in table.edges if edges else ():
        between[a, b] = between[b, a] = 1.0
    return np.asarray((between / between.sum(axis=1, keepdims=True)).astype(np.float32))


def shuffled(tables: Tables, seed: int) -> dict[SchemeIndices, LayerTable]:
    """Return the tables dealt anew to the schemes but START: each has layers, and not its own."""
    schemes = [scheme for scheme in tables if scheme]
    dealt = np.random.default_rng(seed).permutation(len(schemes))
    return {(): tables[()]} | {scheme: tables[schemes[i]] for scheme, i in zip(schemes, dealt, strict=True)}
