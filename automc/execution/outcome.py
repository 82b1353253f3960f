"""What came of executing one step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kg.schema import Status


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The result of a scheme's last step; figures are of the model after it, None unless `status` is "ok".

    `accuracy` is float32 top-1 on the validation split in [0, 1]; `flops` 2 × MACs of one image; `bits` those of all
    parameters as they are stored, None in records of before layers could have fewer than 32 of each;
    `seconds` the wall time of this step alone, as recorded when it really ran, also when `cached`.
    """

    status: Status
    reason: str = ""
    accuracy: float | None = None
    params: int | None = None
    flops: int | None = None
    bits: int | None = None
    reached: bool | None = None
    seconds: float = 0.0
    iterations: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""
    cached: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the cache and artefacts store them."""
        return asdict(self)
