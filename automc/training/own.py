"""The user's own loss and metric: code of theirs that every process imports, and that must stay as it was."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automc import userfiles
from automc.errors import AutoMCError
from automc.places import place_of

if TYPE_CHECKING:
    from torch import Tensor, nn


class OwnCodeError(AutoMCError):
    """The user's loss or metric cannot be used; the message names it, and says why and what to do."""


@dataclass(frozen=True, slots=True)
class OwnCode:
    """A function of the user's as plain values: `file.py:name`, and a hash of that file and what it imports."""

    place: str
    sha256: str

    @property
    def name(self) -> str:
        """What it is called, for people."""
        return self.place.rpartition(":")[2]

    def function(self) -> Callable[..., Any]:
        """Return the function.

        Raises:
            OwnCodeError: it is gone, or another one than it was.
        """
        return _loaded(self.place)[1]

    def check_unchanged(self, what: str, study: str) -> None:
        """Hold it against what it was.

        Args:
            what: "loss" or "metric".
            study: that rests on it.

        Raises:
            OwnCodeError: it is gone, or has changed.
        """
        if own_code(self.place, what) != self:
            raise OwnCodeError(
                f"The {what} {self.place} of the study {study} has changed since it began, so new trials would not "
                "compare with the old ones. Bring back the file as it was, or start a new study."
            )


Own = str | Callable[..., Any] | OwnCode | None
"""How a loss or a metric is given: 'file.py:name', or a function at the top of a file."""


def own_code(given: Own, what: str) -> OwnCode | None:
    """Return a loss or a metric as plain values; None for None.

    Args:
        given: 'file.py:name', or a function at the top of a file.
        what: "loss" or "metric".

    Raises:
        OwnCodeError: it cannot travel to other processes, is not there, or cannot be called.
    """
    if given is None or isinstance(given, OwnCode):
        return given
    if not isinstance(given, str) and not callable(given):
        raise OwnCodeError(f"The {what} is a {type(given).__name__}. Give a function, or 'file.py:name'.")
    try:
        place = given if isinstance(given, str) else place_of(given, what)
    except userfiles.UserFileError as error:
        raise OwnCodeError(str(error)) from None
    path, _, name = place.rpartition(":")
    if not path or not path.endswith(".py"):
        raise OwnCodeError(f"--{what} {place[:80]!r} is not understood. Write file.py:name.")
    file, _ = _loaded(f"{Path(path).expanduser().absolute()}:{name}", what)
    found = hashlib.sha256()
    for source, known in sorted(file.first.items()):
        found.update(f"{source.name} {known}\n".encode())
    return OwnCode(f"{file.path}:{name}", found.hexdigest())


def own_loss(own: OwnCode) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return the user's loss as the training loop calls it: (model, images, labels) -> scalar.

    Theirs takes (outputs, labels), as torch's do, or (model, images, labels): a training step of their own.

    Raises:
        OwnCodeError: it is gone; when it is called: it fails, or returns no scalar tensor.
    """
    from automc.models.outputs import logits

    function = own.function()
    whole = len(_parameters(function)) == 3

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = _called(own, "loss", function, *((model, x, y) if whole else (logits(model, x).float(), y)))
        if not hasattr(value, "backward") or value.ndim != 0:
            raise OwnCodeError(f"The loss {own.place} returned {_kind(value)}, not a tensor of one number to train by.")
        return value  # type: ignore[no-any-return]

    return loss


def own_figure(own: OwnCode, outputs: Tensor, labels: Tensor) -> float:
    """Return the user's metric of a model's outputs (n, classes) and labels (n,), both on the CPU; in [0, 1].

    Raises:
        OwnCodeError: it is gone, fails, or returns anything but one number in [0, 1].
    """
    value = _called(own, "metric", own.function(), outputs, labels)
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:  # of torch or NumPy
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OwnCodeError(
            f"The metric {own.place} returned {_kind(value)}, not a number. Return one number in [0, 1], the "
            "higher the better."
        )
    if not 0 <= (figure := float(value)) <= 1:
        raise OwnCodeError(
            f"The metric {own.place} returned {figure:g}. It must lie in [0, 1], where 1 is perfect: scale "
            "it, or take 1 − it."
        )
    return figure


def _loaded(place: str, what: str = "code") -> tuple[userfiles.UserFile, Callable[..., Any]]:
    path, _, name = place.rpartition(":")
    try:
        file = userfiles.load(Path(path))
    except userfiles.UserFileError as error:
        raise OwnCodeError(f"The {what} {place} cannot be used. {error}") from None
    found = getattr(file.module, name, None)
    if not callable(found) or isinstance(found, type):
        offered = [n for n, v in vars(file.module).items() if inspect.isfunction(v) and not n.startswith("_")]
        wrong = f"{name} is a class; name a function, or an object of it" if found else f"{path} has no {name!r}"
        has = ", ".join(offered) or "none"
        raise OwnCodeError(f"The {what} {place} cannot be used: {wrong}. Functions in it: {has}.")
    return file, found


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The arguments that a function needs; () where it does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _called(own: OwnCode, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    path = Path(own.place.rpartition(":")[0])
    try:
        return function(*arguments)
    except Exception as error:  # the user's code can raise anything
        if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
            raise
        raise OwnCodeError(f"The {what} {own.place} failed: {userfiles.said(error, path)}") from error


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
