"""What TransR learns of the graph's links."""

from __future__ import annotations

from kg.embedding.finer import finer, finer_relation
from kg.schema import Method

Triple = tuple[str, str, str]


def test_each_strategy_is_told_more_finely(methods: tuple[Method, ...], triples: list[Triple]) -> None:
    links = finer(triples)
    of = {(relation, tail) for head, relation, tail in links if head == "A[HP1=0.2,HP2=0.3,HP8=l1]"}
    assert of == {
        ("OF_METHOD", "A"), ("OF_METHOD/USES_TECHNIQUE", "T1"), ("OF_METHOD/USES_TECHNIQUE", "T2"),
        ("HAS_SETTING/HP1", "HP1=0.2"), ("HAS_SETTING/HP2", "HP2=0.3"), ("HAS_SETTING/HP8", "HP8=l1"),
        ("BETWEEN/HP1", "HP1=0.1..0.2"), ("BETWEEN/HP1", "HP1=0.2..0.4"),
    }  # fmt: skip
    # The others are as they were, in one order, and the graph's own list is left alone.
    assert {t for t in triples if t[1] not in ("HAS_SETTING",)} <= set(links)
    assert links == sorted(finer([*reversed(triples), *triples]))
    assert finer_relation("OF_METHOD", "A") == "OF_METHOD"


def test_a_gap_is_of_its_methods_own_grid(triples: list[Triple]) -> None:
    other = [(f"C[HP1={v}]", "HAS_SETTING", f"HP1={v}") for v in (0.1, 0.3, 0.4)]
    links = finer([*triples, *other, *((head, "OF_METHOD", "C") for head, _, _ in other)])
    assert [t for h, r, t in links if (h, r) == ("C[HP1=0.3]", "BETWEEN/HP1")] == ["HP1=0.1..0.3", "HP1=0.3..0.4"]
    assert [t for h, r, t in links if h.startswith("A[HP1=0.1,HP2=0.1,HP8=l1") and r == "BETWEEN/HP1"] == [
        "HP1=0.1..0.2"
    ]


def test_a_link_that_is_left_out_takes_along_what_follows_from_it(triples: list[Triple]) -> None:
    name = "A[HP1=0.2,HP2=0.3,HP8=l1]"
    links = finer([t for t in triples if t != (name, "HAS_SETTING", "HP1=0.2")])
    assert not [t for t in links if t[0] == name and t[1].endswith("HP1")]
    links = finer([t for t in triples if t != (name, "OF_METHOD", "A")])
    assert not [t for t in links if t[0] == name and t[1].startswith("OF_METHOD")]
