"""Changed artefacts: each mutation of an `.am` is refused in words, or reads as the very model that was saved.

    python benchmarks/fuzz_am.py --n 20000

Bytes are flipped, cut and inserted anywhere; values, keys and lists of the description are changed; tensors are
renamed, truncated, retyped. Counted are refusals, files that read as the same model, silent loads of something else,
and exceptions of other kinds; the latter two are printed and should be none.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automc.errors import AutoMCError
from automc.models import structure
from automc.models.load import load
from automc.surgery.levels import Levels, kmeans, uniform
from automc.surgery.quantised import quantise, settle

FACTORY = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.near, self.far = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.far.weight = self.near.weight
        self.fc, self.scale = nn.Linear(6, classes), torch.rand(6, 1, 1)
    def forward(self, x):
        x = self.conv(x).relu() * self.scale
        return self.fc((self.near(x) + self.far(x.tanh())).mean((2, 3)))
def build(classes=4): return Net(classes)
"""

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    2**40,
    1e300,
    float("nan"),
    "",
    "x",
    "relu",
    [],
    [0],
    [[1, 2]],
    {},
    {"a": 1},
)


def original(folder: Path, coded: bool = False) -> Path:
    """Write a small artefact with everything in it: edits, tied weights, a carried tensor, a normalisation, outputs.

    Args:
        coded: with layers on levels, which a file of another format holds.
    """
    (folder / "net.py").write_text(FACTORY)
    torch.manual_seed(0)
    loaded = load(f"{folder / 'net.py'}:build")
    model: Any = loaded.model
    model.fc = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 4))
    if coded:
        quantise(model.conv, uniform(model.conv.weight, 3))
        quantise(model.fc[0], Levels(2, codebook=kmeans(model.fc[0].weight, 4)))
        settle(model)
    path = folder / f"net{int(coded)}.am"
    structure.save(
        path, model, loaded.source, metadata={"recipe": {"lr": 0.01}}, normalisation=((0.5,) * 3, (0.25,) * 3)
    )
    return path


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a safetensors file into its header and its tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict[str, Any], tensors: bytes) -> bytes:
    """Join what `parts` split."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def flip(content: bytes, chance: random.Random) -> bytes:
    """Change one to three bytes, more often in the header than its size would have it."""
    changed = bytearray(content)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(header if chance.random() < 0.7 else len(content))
        changed[at] ^= chance.randint(1, 255)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    """Remove, double or insert a piece."""
    a, b = sorted(chance.randrange(len(content)) for _ in range(2))
    b = min(b, a + chance.choice((1, 4, 100, len(content))))
    return chance.choice((content[:a] + content[b:], content[:b] + content[a:], content[:a] + b"\0" * 4 + content[a:]))


def describe(content: bytes, chance: random.Random) -> bytes:
    """Change a value somewhere in the description."""
    header, tensors = parts(content)
    about = json.loads(header["__metadata__"]["automc"])
    spoil(about, chance)
    header["__metadata__"]["automc"] = json.dumps(about)
    return joined(header, tensors)


def retype(content: bytes, chance: random.Random) -> bytes:
    """Change what the header says of a tensor: name, type, shape, place."""
    header, tensors = parts(content)
    name = chance.choice([k for k in header if k != "__metadata__"])
    others = [k for k in header if k not in ("__metadata__", name)]
    how = chance.randrange(0 if others else 1, 4)
    if how == 0:
        other = chance.choice(others)
        header[name], header[other] = header[other], header[name]
    elif how == 1:
        header[name + chance.choice(("x", ".weight", ":"))] = header.pop(name)
    elif how == 2:
        header[name]["dtype"] = chance.choice(("I32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "C64", "F64", "F4", "?"))
    else:
        spoil(header[name], chance)
    return joined(header, tensors)


def spoil(value: Any, chance: random.Random) -> None:
    """Change, remove or add one thing in nested lists and dicts."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            value.append(chance.choice(ODD)) if isinstance(value, list) else value.update(a=1)
            return
        key = chance.choice(keys)
        if isinstance(value[key], dict | list) and chance.random() < 0.8:
            value = value[key]
            continue
        how = chance.random()
        if how < 0.15:
            del value[key]
        elif how < 0.3 and isinstance(value[key], int | float):
            value[key] += chance.choice((1, -1, 0.5))
        elif how < 0.45 and isinstance(value, dict):
            value[chance.choice(("x", "type", "path"))] = value[key]
        else:
            value[key] = chance.choice(ODD)
        return


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, cut, describe, retype)


def identity(path: Path) -> str:
    """Return all that reading gives, as text."""
    loaded = structure.read(path)
    return json.dumps(
        [structure.weights_hash(loaded.model), loaded.source.as_dict(), loaded.normalisation, loaded.metadata]
    )


def run(n: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Try `n` mutations; return counts by outcome, and what should not have happened."""
    paths = [original(folder, coded) for coded in (False, True)]
    originals = [(path.read_bytes(), identity(path)) for path in paths]
    trial, chance = folder / "trial.am", random.Random(seed)
    counts: Counter[str] = Counter()
    wrong = []
    for number in range(n):
        mutation, (content, right) = chance.choice(MUTATIONS), chance.choice(originals)
        trial.write_bytes(mutation(content, chance))
        try:
            outcome = "the same model" if identity(trial) == right else "something else"
        except AutoMCError:
            outcome = "refused"
        except Exception as error:
            outcome = f"foreign: {type(error).__name__}: {error}"
        counts[outcome.partition(":")[0]] += 1
        if outcome not in ("refused", "the same model"):
            wrong.append(f"seed {seed}, mutation {number} ({mutation.__name__}): {outcome}")
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = run(options.n, options.seed, Path(folder))
    print("\n".join(wrong))
    print(f"{options.n} mutations in {time.perf_counter() - started:.0f} s: {dict(counts)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
