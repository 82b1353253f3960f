"""Activation call sites: one module for each, so that a method can swap them one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from automc.errors import ArtefactError, Infeasible
from automc.models.edits import inserted_types
from automc.models.graphs import dump, with_flags
from automc.models.modes import flags_kept

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.PReLU),
)
"""Classes that count as an activation; sigmoids are left out because they gate more often than they activate."""

CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Classes of torch whose subclasses are code of their own, not layers."""

FUNCTIONS: dict[Any, tuple[type[nn.Module], dict[str, Any]]] = {
    F.relu: (nn.ReLU, {}),
    torch.relu: (nn.ReLU, {}),
    torch.relu_: (nn.ReLU, {"inplace": True}),
    "relu": (nn.ReLU, {}),
    "relu_": (nn.ReLU, {"inplace": True}),
    F.relu6: (nn.ReLU6, {}),
    F.leaky_relu: (nn.LeakyReLU, {}),
    F.elu: (nn.ELU, {}),
    F.gelu: (nn.GELU, {}),
    F.silu: (nn.SiLU, {}),
    F.mish: (nn.Mish, {}),
    F.hardswish: (nn.Hardswish, {}),
}
"""Calls that become modules: function or tensor method → (class, fixed arguments); others travel as they are."""


def activation_sites(model: nn.Module) -> tuple[str, ...]:
    """Name the activation modules of `model`, in module order."""
    return tuple(n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, ACTIVATIONS))


def split_activations(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in which every activation call is a module of its own, called once.

    Function calls (`F.relu`, `x.relu()`, …) become modules; a module called at several places becomes one copy for
    each. Outputs are bit-identical, parameters keep their names. Where nothing needs splitting the copy keeps its
    class, else it is a `torch.fx.GraphModule` whose leaves are torch's layers and the registered insertable ones.

    Raises:
        Infeasible: the forward pass cannot be traced, depends on train/eval mode outside of layers, or calls
            functions that a saved file could not name; the message says which.
    """
    result = copy.deepcopy(model)
    graph = _trace(result)
    _dropout_to_modules(graph, result)
    if _split(graph, result) == 0:
        return copy.deepcopy(model)
    try:
        dump(graph)
    except ArtefactError as error:
        raise Infeasible(f"The activations of {type(model).__name__} cannot be told apart: {error}") from None
    graph.lint()
    traced = fx.GraphModule(result, graph, class_name="Traced")
    return with_flags(traced, model.training)


class _Tracer(fx.Tracer):
    """Enters everything but torch's layers and their subclasses, inserted modules and torchvision's operators.

    A subclass, such as a norm that looks at its mode and activates, is a layer: what it does inside is its own, but
    for its children that are activations, which are modules already.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        childless = not list(m.children()) and type(m).__module__.startswith("torchvision.ops")
        layer = any(cls.__module__.startswith("torch.nn.modules") and cls not in CONTAINERS for cls in type(m).__mro__)
        return childless or layer or isinstance(m, inserted_types()) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.Graph:
    """Trace in the model's own mode; refuse where the other mode runs another graph."""
    graphs = []
    try:
        with flags_kept(model):
            for mode in (True, False):
                model.train(mode)
                graphs.append(_Tracer().trace(model))
    except Exception as error:  # any user code runs here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Infeasible(
            f"The forward pass of {type(model).__name__} cannot be traced by torch.fx: {reason[0]} "
            "(data-dependent branches or shapes are the usual cause)."
        ) from error
    if _calls(graphs[0]) != _calls(graphs[1]):
        raise Infeasible(
            f"The forward pass of {type(model).__name__} differs between training and evaluation outside of layers, "
            "so one graph cannot hold both."
        )
    return graphs[0 if model.training else 1]


def _calls(graph: fx.Graph) -> list[tuple[str, str, str]]:
    """What a graph does, apart from the flag of dropout calls."""
    return [
        (node.op, str(node.target), str(node.args) + ("" if node.target is F.dropout else str(node.kwargs)))
        for node in graph.nodes
    ]


def _dropout_to_modules(graph: fx.Graph, root: nn.Module) -> None:
    """Make `F.dropout(x, training=self.training)` a layer: its flag was frozen by tracing."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is F.dropout:
            p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
            _call_module(graph, root, node, nn.Dropout(p).train(root.training), "dropout")


def _split(graph: fx.Graph, root: nn.Module) -> int:
    """Give every activation call in `graph` a module of its own; return how many calls changed."""
    changed = 0
    called: set[int] = set()
    for node in list(graph.nodes):
        if node.op in ("call_function", "call_method") and (found := FUNCTIONS.get(node.target)) is not None:
            module = _as_module(node, *found)
            if module is not None:
                _call_module(graph, root, node, module.train(root.training), "act")
                changed += 1
        elif node.op == "call_module" and isinstance(module := root.get_submodule(str(node.target)), ACTIVATIONS):
            # A PReLU called twice shares its parameters: a copy would no longer be the same network when trained.
            if id(module) in called and not list(module.parameters()):
                node.target = _insert(root, str(node.target) + "_site", copy.deepcopy(module))
                changed += 1
            called.add(id(module))
    return changed


def _as_module(node: fx.Node, cls: type[nn.Module], fixed: dict[str, Any]) -> nn.Module | None:
    """Build the module for a functional call, or None where its arguments are computed."""
    names: dict[Any, tuple[str, ...]] = {
        nn.ReLU: ("inplace",), nn.ReLU6: ("inplace",), nn.LeakyReLU: ("negative_slope", "inplace"),
        nn.ELU: ("alpha", "inplace"), nn.GELU: ("approximate",),
    }  # fmt: skip
    given = dict(zip(names.get(cls, ("inplace",)), node.args[1:], strict=False))
    given |= {k: v for k, v in node.kwargs.items() if k != "input"}
    if not node.args or any(isinstance(v, fx.Node) for v in given.values()):
        return None
    make: Callable[..., nn.Module] = cls
    return make(**fixed, **given)


def _call_module(graph: fx.Graph, root: nn.Module, node: fx.Node, module: nn.Module, stem: str) -> None:
    stack = node.meta.get("nn_module_stack") or {}
    owner = next(reversed(stack), "")
    name = _insert(root, f"{owner}.{stem}" if owner else stem, module)
    with graph.inserting_before(node):
        new = graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _insert(root: nn.Module, wanted: str, module: nn.Module) -> str:
    """Add `module` at the first free name `wanted1`, `wanted2`, …; return it."""
    parent_name, _, stem = wanted.rpartition(".")
    parent = root.get_submodule(parent_name)
    number = next(i for i in range(1, 10**6) if not hasattr(parent, f"{stem}{i}"))
    parent.add_module(f"{stem}{number}", module)
    return f"{parent_name}.{stem}{number}" if parent_name else f"{stem}{number}"
