"""What embeddings are learnt from, as one digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

Triple = tuple[str, str, str]
"""(head, relation, tail)."""


def fingerprint(triples: Iterable[Triple], experience: Iterable[str]) -> str:
    """Digest of what embeddings are learnt from: the triples and the marks of the experience, in any order."""
    digest = hashlib.sha256()
    for line in sorted({"\t".join(triple) for triple in triples}):
        digest.update(line.encode() + b"\n")
    digest.update(b"\n")
    for name in sorted(set(experience)):
        digest.update(name.encode() + b"\n")
    return digest.hexdigest()
