"""AutoMC makes a trained PyTorch model smaller.

It searches sequences of compression strategies that suit your model, data and target, guided by a knowledge
graph of methods, papers and past runs, and writes what it finds back into the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["compress", "load", "measure", "search", "train"]

if TYPE_CHECKING:
    from automc.api import compress, load, measure, search, train


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first used: torch takes seconds."""
    if name in __all__:
        from automc import api

        return getattr(api, name)
    raise AttributeError(f"module 'automc' has no attribute {name!r}")
