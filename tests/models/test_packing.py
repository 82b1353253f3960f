"""Codes of a few bits in bytes: the order of the bits, exact for every width, refused where bytes are missing."""

from __future__ import annotations

import pytest
import torch

from automc.models import packing


@pytest.mark.parametrize("number", [0, 1, 7, 16, 33])
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_lie_side_by_side_the_first_one_lowest(bits: int, number: int, monkeypatch) -> None:
    monkeypatch.setattr(packing, "_AT_ONCE", 16)  # several turns, the last one not full
    codes = torch.randint(0, 2**bits, (number,), generator=torch.Generator().manual_seed(bits))
    packed = packing.pack_bits(codes, bits)
    whole = sum(int(code) << (place * bits) for place, code in enumerate(codes))
    assert bytes(packed.tolist()) == whole.to_bytes(-(-number * bits // 8), "little")
    assert torch.equal(packing.unpack_bits(packed, bits, number).long(), codes)


def test_bytes_that_do_not_fit_are_refused() -> None:
    packed = packing.pack_bits(torch.arange(8), 3)
    for wrong, number in ((packed[:-1], 8), (packed, 9), (packed, -8), (packed.to(torch.int32), 8)):
        with pytest.raises(ValueError, match="codes of 3 bits do not take"):
            packing.unpack_bits(wrong, 3, number)
