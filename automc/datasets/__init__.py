"""Data sets: `open_data` reads a `DataRef` into a `Dataset`; one file per family, found by name or by kind of path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from automc import lazily

if TYPE_CHECKING:
    from automc.datasets.base import Dataset, Images, TrainData, check
    from automc.datasets.opening import located, open_data
    from automc.datasets.ref import DataRef
    from automc.datasets.registry import register, registered
    from automc.datasets.splits import Splits, split

__all__ = [
    "DataRef",
    "Dataset",
    "Images",
    "Splits",
    "TrainData",
    "check",
    "located",
    "open_data",
    "register",
    "registered",
    "split",
]
__getattr__ = lazily.names(
    __name__,
    {
        **dict.fromkeys(("Dataset", "Images", "TrainData", "check"), "base"),
        **dict.fromkeys(("located", "open_data"), "opening"),
        "DataRef": "ref",
        **dict.fromkeys(("register", "registered"), "registry"),
        **dict.fromkeys(("Splits", "split"), "splits"),
    },
)
