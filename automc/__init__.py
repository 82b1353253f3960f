"""AutoMC makes a trained PyTorch model smaller.

It searches sequences of compression strategies that suit your model, data and target, guided by a knowledge
graph of methods, papers and past runs, and writes what it finds back into the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# The package of searchers and the public function share a name. Python binds a package to its parent once, when
# it is first imported: imported here, it cannot replace the function later.
import automc.search  # noqa: F401

__version__ = "0.1.0"
__all__ = [
    "AutoMCError", "DataRef", "Listener", "Recipe", "compress", "dataset", "define", "doctor", "export", "load",
    "measure", "search", "train",
]  # fmt: skip

if TYPE_CHECKING:
    from automc.api import Recipe, compress, doctor, export, load, measure, search, train
    from automc.datasets import DataRef
    from automc.errors import AutoMCError
    from automc.given import dataset, define
    from automc.study import Listener
else:

    def search(model, data, **options):
        """Search compression schemes for a model; see `automc.api.search`, which this is."""
        from automc import api

        return api.search(model, data, **options)


def __getattr__(name: str) -> Any:
    """Import the other public functions when they are first used: torch takes seconds."""
    if name == "AutoMCError":
        from automc.errors import AutoMCError

        return AutoMCError
    if name in __all__:
        from automc import api  # which has them all

        return getattr(api, name)
    raise AttributeError(f"module 'automc' has no attribute {name!r}")
