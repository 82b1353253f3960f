"""Learn the vectors that come with the package, from the cards and experience in this checkout.

    make vectors    # a minute of one core; replaces data/vectors

They are learned from nothing, so that they depend on nothing but that knowledge.
They are what a new home begins with, so that nobody learns from nothing what everybody knows. Their name is a digest
of what they were learned from; a test fails where cards or experience changed and they were not learned anew.
"""

from __future__ import annotations

import argparse
import os
import tempfile

from automc import knowledge
from kg.resources import vectors_dir

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ.pop("AUTOMC_GRAPH", None)
    with tempfile.TemporaryDirectory() as home:
        os.environ["AUTOMC_HOME"] = home
        knowledge.prepare()
        vectors = knowledge.vectors(seed=SEED, full=True, say=print)
    for old in vectors_dir().glob("*.safetensors"):
        old.unlink()
    path = vectors_dir() / f"{vectors.id}.safetensors"
    vectors.save(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
