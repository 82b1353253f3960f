"""Pictures of any mode as uint8 pixels: grey stays grey, 16 bits keep their high byte, transparency is dropped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GREY_MODES = frozenset(("1", "L", "LA", "La", "I;16", "I;16L", "I;16B"))
DEEP_MODES = frozenset(("I", "F"))
"""32-bit pixels, which have no range to scale from."""


def to_pixels(picture: Image.Image, channels: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return a picture as uint8 (channels, height, width), channels 1 or 3, resized to `size` (height, width) if given.

    Resizing is bilinear and antialiased; the aspect is not kept.

    Raises:
        ValueError: it has 32-bit pixels.
    """
    if picture.mode in DEEP_MODES:
        raise ValueError(f"it has 32-bit pixels (mode {picture.mode}); convert it to 8 bits")
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
