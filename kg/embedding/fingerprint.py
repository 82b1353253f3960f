"""What embeddings are learnt from, as one digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

Triple = tuple[str, str, str]
"""(head, relation, tail)."""
FORMAT = 2
"""Of what is learnt and how it is kept. 1 learned all hyperparameters as one relation: such files are read, for the
studies that pin them, but nothing goes on from them."""


def fingerprint(triples: Iterable[Triple], experience: Iterable[str]) -> str:
    """Digest of what embeddings are learnt from, and of the format: triples and marks of experience in any order."""
    digest = hashlib.sha256(f"{FORMAT}\n".encode())
    for line in sorted({"\t".join(triple) for triple in triples}):
        digest.update(line.encode() + b"\n")
    digest.update(b"\n")
    for name in sorted(set(experience)):
        digest.update(name.encode() + b"\n")
    return digest.hexdigest()
