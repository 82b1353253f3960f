"""torch.fx graphs as plain data: a list of nodes in JSON values, and back, without pickle or generated source.

Functions are named, and only functions on tensors are admitted: `torch.X`, `torch.nn.functional.X`, `operator`,
`math` and `getattr`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import Node, _get_qualified_name

from automc.errors import ArtefactError

MODULES = ("torch.nn.functional", "torch._C._nn", "torch", "_operator", "operator", "math", "torchvision.ops")
OUTSIDE = ("torch.serialization", "torch.hub", "torch.jit", "torch._compile", "torch.storage")


def dump(graph: fx.Graph) -> list[dict[str, Any]]:
    """Return the graph's nodes in order, as JSON values.

    Raises:
        ArtefactError: a node calls a function, or holds a value, that a file cannot name.
    """
    return [
        {
            "op": node.op,
            "name": node.name,
            "target": _name(node),
            "args": _encode(node.args, node),
            "kwargs": _encode(node.kwargs, node),
        }
        for node in graph.nodes
    ]


def load(nodes: list[dict[str, Any]], root: nn.Module) -> fx.GraphModule:
    """Build the graph over the modules of `root`, whose training flag it takes.

    Raises:
        ArtefactError: a node names what does not exist or is not admitted.
    """
    graph = fx.Graph()
    known: dict[str, Node] = {}
    try:
        for entry in nodes:
            op, target = entry["op"], entry["target"]
            if op == "call_method" and target.startswith("_"):
                raise ArtefactError(f"The file's graph calls the method {target!r}, which is not admitted.")
            resolved = function(target) if op == "call_function" else target
            args, kwargs = _decode(entry["args"], known), _decode(entry["kwargs"], known)
            known[entry["name"]] = graph.create_node(op, resolved, args, kwargs, name=entry["name"])
        module = fx.GraphModule(root, graph, class_name="Traced")
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise ArtefactError(f"The file's graph does not fit the model: {error}.") from error
    return with_flags(module, root.training)


def with_flags(module: fx.GraphModule, training: bool) -> fx.GraphModule:
    """Set the training flag of the graph and of its plain containers, leaving the layers' own; return `module`."""
    for part in module.modules():
        if type(part) is nn.Module or part is module:
            part.training = training
    return module


def function(name: str) -> Any:
    """Return the admitted function of this dotted name.

    Raises:
        ArtefactError: it does not exist here or is not admitted.
    """
    module, _, attribute = name.rpartition(".")
    if name in ("getattr", "builtins.getattr"):  # torch.fx names builtins without their module
        return getattr
    admitted = module in MODULES or module.startswith("torchvision.ops.")
    if admitted and not attribute.startswith("__"):
        found = getattr(importlib.import_module(module), attribute, None)
        home = str(getattr(found, "__module__", ""))
        if callable(found) and not isinstance(found, type) and not home.startswith(OUTSIDE):
            return found
    raise ArtefactError(f"The model's graph calls {name}, which a file cannot name: make it a module of its own.")


def _name(node: Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    assert callable(node.target)
    name = str(_get_qualified_name(node.target))
    if function(name) is not node.target:
        raise ArtefactError(f"The model's graph calls {name}, which is another function than the one of that name.")
    return name


def _encode(value: Any, node: Node) -> Any:
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, node) for v in value]}
    if isinstance(value, list):
        return [_encode(v, node) for v in value]
    if isinstance(value, dict):
        return {"dict": {str(k): _encode(v, node) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(v, node) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ArtefactError(f"The model's graph holds a {type(value).__name__} at {node.name}, which a file cannot hold.")


def _decode(value: Any, known: dict[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(v, known) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return known[content]
    if kind == "tuple":
        return tuple(_decode(v, known) for v in content)
    if kind == "dict":
        return {k: _decode(v, known) for k, v in content.items()}
    if kind == "slice":
        return slice(*(_decode(v, known) for v in content))
    if kind == "ellipsis":
        return ...
    if kind == "device":
        return torch.device(content)
    found = getattr(torch, content) if kind == "torch" else None
    if not isinstance(found, torch.dtype | torch.memory_format | torch.layout):
        raise ArtefactError(f"The file's graph holds a value of kind {kind!r}, which this version does not know.")
    return found
