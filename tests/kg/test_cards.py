"""Method cards: the paper's counts, and every rule a card can break."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import yaml

from kg.cards import enumerate_strategies, on_grid, packaged_cards, read_cards
from kg.errors import CardInvalid
from kg.resources import methods_dir
from kg.schema import Strategy

GRID = {"LMA": 1200, "LeGR": 800, "NS": 50, "SFP": 75, "HOS": 2025, "LFB": 375}
CARD = {
    "format": 1,
    "method": "Mine",
    "title": "My method",
    "citation": "Me. Mine. Nowhere 2026.",
    "techniques": [{"id": "mine", "title": "my own technique"}],
    "hyperparameters": [
        {"id": "HP2", "meaning": "parameters to remove in this step", "unit": "share of the original parameters",
         "values": [0.1, 0.2]},
    ],
}  # fmt: skip

WEIGHTS = frozenset({"unstructured pruning", "semi-structured pruning", "sparse training", "pruning and quantisation"})
FILTERS = frozenset({"structured pruning", "pruning and quantisation"})
FAMILIES = {
    **dict.fromkeys(("weight-magnitude", "l0-penalty", "random-pruning", "winograd-domain"), WEIGHTS),
    **dict.fromkeys(("filter-norm", "filter-selection", "geometric-median", "TE2", "TE4", "TE5", "TE7"), FILTERS),
    **dict.fromkeys(("kernel-clustering", "product-quantization"), frozenset({"weight sharing"})),
    **dict.fromkeys(("rank-regularization", "rank-truncation", "variational-rank", "TE9"), frozenset({"low rank"})),
    "block-sparsity": {"semi-structured pruning"},
    "dynamic-routing": {"structured pruning"},
    "perforation": {"other"},
    "range-calibration": {"quantisation after training", "pruning and quantisation"},
    "token-pruning": {"token reduction"},
    "shared-widths": {"slimmable networks", "pruning and quantisation"},
    "feature-distillation": {"distillation"},
    "relational-distillation": {"distillation"},
}
"""What a method can be that is made of a technique, where that leaves a choice of few."""


def write(folder: Path, name: str = "mine.yaml", **changes: object) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(CARD | changes))
    return path


def knob(**changes: object) -> list[dict[str, object]]:
    return [CARD["hyperparameters"][0] | changes]


def raw_grid_cards() -> dict[str, dict]:
    """The cards of the paper's C1 to C6 as plain YAML, read without any of the code under test."""
    cards = [yaml.safe_load(path.read_text()) for path in methods_dir().glob("*.yaml")]
    return {card["method"]: card for card in cards if card.get("label")}


def test_grid_of_the_paper_from_plain_yaml():
    cards = raw_grid_cards()
    sizes = {name: prod(len(h["values"]) for h in card["hyperparameters"]) for name, card in cards.items()}
    assert sizes == GRID
    assert sum(sizes.values()) == 4525
    assert sum(sizes[name] * len(card["hyperparameters"]) for name, card in cards.items()) == 24025
    assert sum(len(card["hyperparameters"]) for card in cards.values()) == 26
    assert sum(len(card["techniques"]) for card in cards.values()) == 10
    assert len({t["id"] for card in cards.values() for t in card["techniques"]}) == 8
    assert len({h["id"] for card in cards.values() for h in card["hyperparameters"]}) == 16
    settings = {(h["id"], v) for card in cards.values() for h in card["hyperparameters"] for v in h["values"]}
    assert len(settings) == 59


def test_enumerated_strategies_match_the_grid():
    methods = [method for method in read_cards() if method.label]
    ids = [strategy.id for method in methods for strategy in enumerate_strategies(method)]
    assert len(ids) == len(set(ids)) == 4525
    assert {m.id: sum(1 for _ in enumerate_strategies(m)) for m in methods if m.hyperparameters} == GRID
    ns = next(method for method in methods if method.id == "NS")
    assert [s.id for s in enumerate_strategies(ns)][:3] == [
        "NS[HP1=0.1,HP2=0.04,HP6=0.7]", "NS[HP1=0.1,HP2=0.04,HP6=0.9]", "NS[HP1=0.1,HP2=0.12,HP6=0.7]",
    ]  # fmt: skip
    assert all(Strategy.parse(id).id == id for id in ids)


def test_labels_and_citations():
    methods = read_cards()
    assert [(m.label, m.id) for m in methods[:6]] == [
        ("C1", "LMA"), ("C2", "LeGR"), ("C3", "NS"), ("C4", "SFP"), ("C5", "HOS"), ("C6", "LFB"),
    ]  # fmt: skip
    assert all(m.citation and m.url.startswith("https://") and m.techniques for m in methods)
    assert {t.id for m in methods[:6] for t in m.techniques} == {f"TE{i}" for i in (1, 2, 3, 4, 5, 6, 7, 9)}
    assert all(m.default_grid for m in methods[:6])


def test_a_family_is_what_the_techniques_do():
    """Weights may be judged one by one and leave as filters, where a technique removes filters; nothing else mixes."""
    for method in read_cards():
        made_of = {technique.id for technique in method.techniques}
        for technique in made_of & FAMILIES.keys():
            filters = FILTERS if FAMILIES[technique] is WEIGHTS and "filter-similarity" in made_of else frozenset()
            assert method.family in FAMILIES[technique] | filters, (method.id, technique)
        quantises = bool(made_of & {"weight-quantization", "activation-quantization"})
        assert quantises == ("quantisation" in str(method.family)), method.id


def test_off_the_default_grid_a_method_is_searched_where_it_is_named(tmp_path):
    known = read_cards([*packaged_cards(), write(tmp_path, default_grid=False)])
    mine = next(m for m in known if m.id == "Mine")
    assert not mine.default_grid
    assert len(list(enumerate_strategies(mine))) == 2
    for named, number in ((), 0), (("NS",), 0), (("Mine", "NS"), 2):
        (searched,) = (m for m in on_grid(known, named) if m.id == "Mine")
        assert len(list(enumerate_strategies(searched))) == number
        assert searched.techniques == mine.techniques
    assert on_grid(on_grid(known, ("Mine",)), ("Mine",)) == on_grid(known, ("Mine",))


def test_a_grid_is_of_parameters_or_of_bits(tmp_path):
    bits = {"id": "HP22", "meaning": "stored bits", "unit": "bits", "values": [2, 4, 8]}
    path = write(tmp_path, hyperparameters=[bits])
    assert [m.id for m in read_cards([path])] == ["Mine"]
    for knobs in ([bits, *knob()], [knob(id="HP4")[0]]):
        with pytest.raises(CardInvalid, match=r"HP2.*or HP22.*not both"):
            read_cards([write(tmp_path, hyperparameters=knobs)])
    with pytest.raises(CardInvalid, match="between 2 and 8"):
        read_cards([write(tmp_path, hyperparameters=[bits | {"values": [1, 4]}])])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hyperparameters": knob(values=[0.1, 0.2, 0.2])}, "HP2.values: duplicate setting 0.2"),
        ({"hyperparameters": knob(id="HP4", values=[1, 1.0]) + knob()}, "HP4.values: duplicate setting 1"),
        ({"hyperparameters": knob(values=[])}, "HP2.values: the grid is empty"),
        ({"hyperparameters": knob(values=[0.2, 0.1])}, "must ascend"),
        ({"hyperparameters": knob(values=[0.2, "a"])}, "mixed"),
        ({"hyperparameters": knob(values=["a b"]) }, "'a b' is not a category"),
        ({"hyperparameters": knob(values=[0.2, float("nan")])}, "finite"),
        ({"hyperparameters": knob(values=[True])}, "HP2.values"),
        ({"hyperparameters": knob(values=[0.2, 1.5])}, "between 0 and 1"),
        ({"hyperparameters": knob(id="HP4")}, "needs HP2"),
        ({"hyperparameters": knob() + knob()}, "hyperparameter HP2 is listed twice"),
        ({"techniques": [{"id": "TE99"}]}, "unknown technique TE99"),
        ({"techniques": []}, "techniques"),
        ({"techniques": [{"id": "TE3", "title": "fine tune"}] * 2}, "technique TE3 is listed twice"),
        ({"citation": " "}, "citation"),
        ({"method": "my method"}, "method"),
        ({"format": 2}, "format"),
        ({"hyperparameters": [], "default_grid": False}, "leave default_grid out"),
        ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
def test_each_broken_rule_is_named(tmp_path, changes, said):
    path = write(tmp_path, **changes)
    with pytest.raises(CardInvalid) as caught:
        read_cards([path])
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_title_may_be_left_to_another_card(tmp_path):
    path = write(tmp_path, techniques=[{"id": "TE3"}], hyperparameters=[])
    mine = next(m for m in read_cards([*packaged_cards(), path]) if m.id == "Mine")
    assert mine.techniques[0].title == "fine tune"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "NS"}, "NS has a card already"),
        ({"method": "ns"}, "ns differs from NS in .* by capitals alone"),
        ({"hyperparameters": knob(unit="percent")}, "HP2.unit: 'percent' differs"),
        ({"techniques": [{"id": "TE3", "title": "tuning"}]}, "TE3.title: 'tuning' is 'fine tune'"),
    ],
)
def test_cards_must_agree(tmp_path, changes, said):
    with pytest.raises(CardInvalid, match=said):
        read_cards([*packaged_cards(), write(tmp_path, **changes)])


def test_a_grid_replaces_a_card_that_is_knowledge_only(tmp_path):
    mine = write(tmp_path, method="FPGM")
    known = read_cards([*packaged_cards(), mine])
    assert [m.title for m in known if m.id == "FPGM"] == ["My method"]
    assert sum(len(list(enumerate_strategies(m))) for m in known if m.label or m.id == "FPGM") == 4525 + 2
    bare = write(tmp_path, "bare.yaml", method="FPGM", hyperparameters=[])
    for order in ([*packaged_cards(), bare], [*packaged_cards(), mine, bare]):
        with pytest.raises(CardInvalid, match="FPGM has a card already"):
            read_cards(order)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format: 1\nmethod: A\nmethod: B\n", ":3: 'method' is given twice"),
        ("format: [1\n", ":2: "),
        ("- 1\n", "does not begin with a field"),
        ("", "is empty"),
    ],
)
def test_what_is_no_card(tmp_path, text, said):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(CardInvalid) as caught:
        read_cards([path])
    assert said in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(CardInvalid, match="cannot be read: No such file"):
        read_cards([tmp_path / "none.yaml"])
