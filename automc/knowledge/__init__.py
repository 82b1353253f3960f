"""What a person or a study asks of the knowledge: the graph of this home, its cards, its experience, its vectors.

Everything here is one call, and the command line only prints it. torch and the stores are imported where they
are needed, so this package is cheap to import.
"""

from automc.knowledge.cards import card_paths, executable, grid_size, methods, published
from automc.knowledge.learned import EPOCHS, Knowledge, ablated, learnable, newest, quality, status, vectors
from automc.knowledge.store import contents, copy, graph, query, similar, study_names
from automc.knowledge.upkeep import Prepared, prepare

__all__ = [
    "EPOCHS",
    "Knowledge",
    "Prepared",
    "ablated",
    "card_paths",
    "contents",
    "copy",
    "executable",
    "graph",
    "grid_size",
    "learnable",
    "methods",
    "newest",
    "prepare",
    "published",
    "quality",
    "query",
    "similar",
    "status",
    "study_names",
    "vectors",
]
