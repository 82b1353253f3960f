"""The model zoo: small classifiers of the compression papers, by name, for any number of classes and channels."""

from __future__ import annotations

from automc.models.zoo import resnet, vgg
from automc.models.zoo.registry import IMAGENET, Entry, build, get, names, register

__all__ = ["IMAGENET", "Entry", "build", "get", "names", "register", "resnet", "vgg"]
