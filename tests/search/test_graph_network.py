"""The graph network of the benchmarks: what its layers mean to it, and what it falls back to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from automc.models.layers import Layer, LayerTable
from automc.search.base import Limits, Outcome
from automc.search.linear import LinearModel
from benchmarks.tab.graph_network import FEATURES, GraphModel, GraphNet, features, links
from benchmarks.tab.structures import Tree, Widths, load
from benchmarks.tab.table import TREE, Table

LIMITS = Limits(gamma=0.3, base_accuracy=0.9, max_length=4)


def layer(name, outputs, inputs=8):
    weights = 9 * inputs * outputs
    return Layer(name, "conv", inputs, outputs, 3, 3, 1, 8, 8, 1, weights, 64 * weights, 32, 0, (0,), (1,))


def table(*outputs):
    layers = tuple(layer(f"c{place}", width) for place, width in enumerate(outputs))
    return LayerTable(layers, tuple((a, a + 1) for a in range(len(outputs) - 1)))


TABLES = {(): table(16, 16, 16), (0,): table(4, 16, 16), (1,): table(16, 16, 4)}


def steps_of(space):
    """Prefixes 0 and 1 alike in all but their layers; what follows 0 costs less than what follows 1."""
    prefixes = [Outcome((i,), "ok", 0.88, 0.2, -0.02, 0.2) for i in (0, 1)]
    rng = np.random.default_rng(0)
    return [
        (prefix, Outcome((prefix.scheme[0], int(last)), "ok", 0.8, 0.3, -0.02 - 0.1 * prefix.scheme[0], 0.1))
        for prefix in prefixes
        for last in rng.choice(len(space.mask), 20, replace=False)
    ]


def test_before_it_has_learned_it_is_the_linear_model(new_space):
    space = new_space()
    prefixes = [Outcome((i,), "ok", 0.88, 0.2) for i in (0, 1, 2)]
    model, linear = GraphModel(space, LIMITS, 0, TABLES), LinearModel(space, LIMITS)
    np.testing.assert_allclose(model.predict(prefixes), linear.predict(prefixes), atol=1e-12)


def test_where_layers_are_unknown_it_stays_the_linear_model_and_elsewhere_it_does_not(new_space):
    space = new_space()
    model, linear = GraphModel(space, LIMITS, 0, TABLES), LinearModel(space, LIMITS)
    steps = steps_of(space)
    for each in (model, linear):
        each.learn(steps)
    prefixes = [Outcome((i,), "ok", 0.88, 0.2) for i in (0, 2)]
    known, unknown = np.abs(model.predict(prefixes) - linear.predict(prefixes)).max(axis=(1, 2))
    assert unknown == 0
    assert known > 1e-4
    last = np.array([3, 4])
    np.testing.assert_allclose(model.pairs(prefixes, last), model.predict(prefixes)[[0, 1], last], atol=1e-6)


def test_it_learns_what_hangs_on_the_layers_alone_and_learns_the_same_again(new_space):
    space = new_space()
    steps = steps_of(space)
    found = []
    for _ in range(2):
        model = GraphModel(space, LIMITS, 0, TABLES)
        before, *_, after = (model.learn(steps) for _ in range(5))
        found.append(model.predict([parent for parent, _ in steps]))
        assert after < 0.8 * before
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("edges", [True, False])
def test_the_order_of_layers_is_of_no_account(edges):
    torch.manual_seed(0)
    net = GraphNet(34, 7)
    nodes, between = torch.randn(1, 5, FEATURES), torch.eye(5)[None]
    if edges:
        between = between + torch.rand(1, 5, 5)
        between = between / between.sum(dim=2, keepdim=True)
    prefix = torch.randn(1, 2, 34), torch.tensor([2]), torch.randn(1, 2)
    order = torch.randperm(5)
    with torch.no_grad():
        one = net.encode(*prefix, nodes, between)
        other = net.encode(*prefix, nodes[:, order], between[:, order][:, :, order])
        # Places that are empty, too.
        wide = torch.nn.functional.pad(nodes, (0, 0, 0, 3)), torch.nn.functional.pad(between, (0, 3, 0, 3))
        padded = net.encode(*prefix, *wide)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one, padded, atol=1e-6, rtol=1e-5)


def test_features_tell_what_a_layer_has_kept_of_its_place_and_links_go_both_ways():
    start = {layer.name: layer for layer in TABLES[()].layers}
    pair = (replace(layer("c1.0", 4), rank=4), replace(layer("c1.1", 16, 4), rank=4))
    found = features((*table(4).layers, *pair), start)
    assert found.shape == (3, FEATURES)
    np.testing.assert_allclose(found[:, 11], [0.25, 0.25, 1.0])  # outputs of c0, c1.0 and c1.1
    np.testing.assert_allclose(found[:, 12], [0.0, 0.5, 0.5])  # rank, of 8 inputs
    np.testing.assert_allclose(links(table(4, 4, 4), True)[1], [1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(links(table(4, 4, 4), False), np.eye(3))


def test_networks_of_the_tree_are_built_anew_with_the_parameters_that_were_left():
    table, tables = Table.load(TREE), load(TREE)
    assert len(tables) == 43
    for scheme in ((), (6,), (1, 5), (6, 0)):
        widths = Widths()
        for step in scheme:
            widths = widths.after(step)
        params = sum(p.numel() for p in Tree(widths).parameters())
        removed = table.mean[scheme][1] if scheme else 0.0
        assert params == round(78042 * (1 - removed))
        norms = params - sum(layer.params for layer in tables[scheme].layers)
        assert norms == 2 * (2 * sum(widths.stages) + sum(widths.inside))
