"""Reading Cypher text."""

from __future__ import annotations

import pytest

from kg.store.text import mask, returned, statements


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A; B;", ["A", "B"]),
        ("A; B", ["A", "B"]),
        ("A 'x;y'; B \"p;q\";", ["A 'x;y'", 'B "p;q"']),
        ("A 'it\\'s; so'; B", ["A 'it\\'s; so'", "B"]),
        ("A `odd;name`; B", ["A `odd;name`", "B"]),
        ("// one; two\nA; /* three; \n four; */ B", ["// one; two\nA", "/* three; \n four; */ B"]),
        ("A 'http://x'; B", ["A 'http://x'", "B"]),
        ("A; // the end;", ["A"]),
        (" ;;\n; ", []),
        ("// nothing", []),
    ],
)
def test_statements(text: str, parts: list[str]) -> None:
    assert statements(text) == parts


def test_masking_keeps_places() -> None:
    text = "A '->' // b\nC /* d */ `e`"
    masked = mask(text)
    assert len(masked) == len(text)
    assert [i for i, c in enumerate(masked) if c == "C"] == [text.index("C")]
    assert "->" not in masked
    assert "b" not in masked


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("MATCH (n) RETURN n.id AS id, count(n) AS `how many` ORDER BY id LIMIT 3", ("id", "how many")),
        ("MATCH (n) WITH n.x AS x RETURN DISTINCT x, {a: 1, b: [1, 2]} AS m;", ("x", "m")),
        ("MATCH (n) RETURN n.id, coalesce(n.x, 'a, b') SKIP 1", ("n.id", "coalesce(n.x, 'a, b')")),
        ("CALL (n) { RETURN 1 AS inner } RETURN 2 AS outer", ("outer",)),
        ("RETURN 'RETURN x AS y' AS text", ("text",)),
        ("MATCH (n) return n.as AS a", ("a",)),
        ("MATCH (n) RETURN *", ()),
        ("CREATE (n)", ()),
    ],
)
def test_returned(query: str, columns: tuple[str, ...]) -> None:
    assert returned(query) == columns
