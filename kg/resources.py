"""Where the packaged knowledge lies: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _place(inside: Path, beside: Path) -> Path:
    """The folder a wheel carries, else the one of the checkout."""
    return inside if inside.is_dir() else beside


def methods_dir() -> Path:
    """Return the folder of the packaged method cards."""
    return _PACKAGE / "methods"


def experience_dir() -> Path:
    """Return the folder of the packaged experience files, one YAML per paper."""
    return _place(_PACKAGE / "_data" / "experience", _PACKAGE.parent / "data" / "experience")


def migrations_dir() -> Path:
    """Return the folder of the packaged migrations, `V0001__name.cypher` and on."""
    return _place(_PACKAGE / "_data" / "migrations", _PACKAGE.parent / "migrations")


def vectors_dir() -> Path:
    """Return the folder of the packaged vectors: one file, named by what it was learned from."""
    return _place(_PACKAGE / "_data" / "vectors", _PACKAGE.parent / "data" / "vectors")


def compose_file() -> Path:
    """Return the compose file that runs a Neo4j server under Docker."""
    inside = _PACKAGE / "_data" / "compose.yaml"
    return inside if inside.is_file() else _PACKAGE.parent / "compose.yaml"
