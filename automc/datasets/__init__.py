"""Data sets: `open_data` reads a `DataRef` into a `Dataset`; one file per family, found by name or by kind of path."""

from __future__ import annotations

from automc.datasets import digits, torchvision_sets  # readers register themselves
from automc.datasets.base import DataRef, Dataset, Images, TrainData, check
from automc.datasets.opening import located, open_data
from automc.datasets.registry import register, registered
from automc.datasets.splits import Splits, split

__all__ = [
    "DataRef",
    "Dataset",
    "Images",
    "Splits",
    "TrainData",
    "check",
    "digits",
    "located",
    "open_data",
    "register",
    "registered",
    "split",
    "torchvision_sets",
]
