"""What is not true, for TransR to learn from: triples whose head or tail is another one of the same kind.

An entity drawn from all is nearly always of a kind that the relation never has there, so such triples teach kinds and
little else. Of the heads that a relation has, on the other hand, a fifth may truly have that setting, and such triples
would teach that they have not.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from pykeen.sampling import PseudoTypedNegativeSampler
from torch import Tensor

# It warns of relations with one head and tail, as a search of one method has them: of these `sample` takes anything.
logging.getLogger(PseudoTypedNegativeSampler.__module__).setLevel(logging.ERROR)


class TypedNegatives(PseudoTypedNegativeSampler):  # type: ignore[misc]
    """PyKEEN's pseudo-typed sampler, with two differences, each for want of variety.

    Head and tail are replaced alike often; PyKEEN draws from both kinds together, so of thousands of strategies and six
    methods it would hardly ever offer a strategy another method. And where the draw made a true triple, any entity
    stands in its place; dropping these, as PyKEEN does, may leave no triple at all of a small graph.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(filtered=True, **kwargs)

    def corrupt_batch(self, positive_batch: Tensor) -> Tensor:
        """Return (n, 1, 3) triples with another head or tail that their relation has."""
        side = torch.randint(2, (len(positive_batch),))
        kind = 2 * positive_batch[:, 1] + side
        begin, end = self.offsets[kind], self.offsets[kind + 1]
        drawn = self.data[begin + (torch.rand(len(side)) * (end - begin)).long()]
        return _replaced(positive_batch, side, drawn)[:, None]

    def sample(self, positive_batch: Tensor) -> tuple[Tensor, None]:
        """Return (n, 1, 3) triples that are not true but by chance, and no filter: all count."""
        negatives, untrue = super().sample(positive_batch)
        rows = torch.nonzero(~untrue[:, 0]).flatten()
        side, anything = torch.randint(2, rows.shape), torch.randint(self.num_entities, rows.shape)
        negatives[rows, 0] = _replaced(positive_batch[rows], side, anything)
        return negatives, None


def _replaced(triples: Tensor, side: Tensor, entities: Tensor) -> Tensor:
    """Return triples (n, 3) with these heads, where the side is 0, or tails, where it is 1."""
    out = triples.clone()
    out[torch.arange(len(out)), 2 * side] = entities
    return out
