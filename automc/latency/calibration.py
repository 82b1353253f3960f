"""What was measured of kernels on one machine, kept as JSON; regressors are learned anew from it in seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from automc.errors import EnvironmentFault, ModelError
from automc.files import write_atomically
from automc.latency.kernels import Kernel
from automc.latency.predictor import Fit, Predictor
from automc.models.pace import NAMES

FORMAT = 2


@dataclass(frozen=True)
class Calibration:
    """Samples of kernels in the shapes of one model, and whole networks made from it."""

    model: str
    """As the user named it."""
    identity: str
    """Of the model's kernels: equal for models of equal structure on images of equal size."""
    place: Mapping[str, Any]
    """What times hang on: processor, runtime, threads, batch, versions."""
    kernels: Sequence[Kernel]
    seconds: Sequence[float]
    """Of each kernel."""
    networks: Sequence[tuple[float, int, float]] = field(default_factory=tuple)
    """(sum of the kernels' milliseconds, their number, measured milliseconds) of whole networks."""
    base_ms: float = 0.0
    """Measured of the model itself."""
    unsettled: int = 0
    """Networks whose time did not settle: other work went on."""

    @property
    def fit(self) -> Fit:
        """What whole networks say of sums of kernels."""
        return Fit.of(*([row[i] for row in self.networks] for i in range(3)))  # type: ignore[arg-type]

    def predictor(self) -> Predictor:
        """Learn the regressors; the same for the same samples."""
        return Predictor(self.kernels, self.seconds, self.fit)

    def save(self, folder: Path) -> Path:
        """Write it to a folder, in place of an earlier one of the same model and runtime.

        Raises:
            EnvironmentFault: the folder cannot be written.
        """
        file = path(folder, self.identity, self.place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(f"The calibration cannot be written to {folder}: {error.strerror}.") from None
        write_atomically(file, json.dumps({"format": FORMAT, **asdict(self)}).encode())
        return file


def identity(kernels: Sequence[Kernel]) -> str:
    """Return a hash of a model's kernels."""
    return hashlib.sha256(json.dumps([asdict(k) for k in kernels], sort_keys=True).encode()).hexdigest()[:16]


def path(folder: Path, of: str, place: Mapping[str, Any]) -> Path:
    """Where the calibration of a model for a runtime and a batch lies."""
    return folder / f"{of}-{place['runtime']}-{place['batch']}.json"


def load(folder: Path, of: str, place: Mapping[str, Any]) -> Calibration | None:
    """Read the calibration of a model for a runtime; None where there is none.

    Raises:
        ModelError: it is damaged, or times hang on something that has changed since: names it, and the way out.
    """
    file = path(folder, of, place)
    if not file.is_file():
        return None
    again = "Measure it anew with automc latency calibrate."
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("another version of AutoMC wrote it")
        kernels = [_kernel(row) for row in values.pop("kernels")]
        networks = [tuple(row) for row in values.pop("networks")]
        found = Calibration(kernels=kernels, networks=networks, **values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"The latency calibration {file} cannot be read: {error}. {again}") from None
    changed = [f"{n} was {found.place.get(n)}, it is {v}" for n, v in place.items() if found.place.get(n) != v]
    if changed:
        raise ModelError(
            f"The latency calibration of {found.model} in {NAMES[place['runtime']]} is of another place: "
            f"{'; '.join(changed)}. {again}"
        )
    return found


def _kernel(row: dict[str, Any]) -> Kernel:
    return Kernel(
        **{**row, "size": tuple(row["size"]), "stride": tuple(row["stride"]), "arguments": tuple(row["arguments"])}
    )
