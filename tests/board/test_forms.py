"""Forms of the board: a card and a paper's results, as fields and as text, checked, shown, and then written."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from board_tools import Client

from automc.board.fields import CARD as CARD_FIELDS
from automc.board.fields import RESULTS
from automc.board.filled import content, inputs_of, misfits
from automc.errors import AutoMCError
from kg.cards import Card, packaged_cards
from kg.experience import packaged_experience
from kg.experience_file import ExperienceFile
from kg.plain import read_yaml


@pytest.fixture(scope="module")
def board(home: Path) -> Iterator[Client]:
    """A client of the board of a home without studies."""
    with Client() as client:
        yield client


CARD = """format: 1
method: BoardMethod
title: A <script>alert(1)</script> method
citation: A. Author. A title. A workshop, 2026.
techniques:
  - {id: TE3, title: fine tune}
"""


def _seal(page: str) -> str:
    return re.search(r'name="checked" value="([^"]*)"', page)[1]


def test_a_card_is_checked_shown_and_then_written(board: Client) -> None:
    refused = board.send_form("/write/card", text=CARD.replace("citation", "zitation"), act="check")
    assert refused.status_code == 400
    assert "zitation" in re.search(r'role="alert">(.*?)</p>', refused.text, re.S)[1]
    assert "zitation: A. Author" in refused.text, "nothing of what was typed is lost"
    assert _seal(refused.text) == ""
    shown = board.send_form("/write/card", text=CARD, act="check").text
    assert "BoardMethod" in shown
    assert "<script>alert" not in shown
    assert board.get("/graph/Method", params={"id": "BoardMethod"}).status_code == 404, "nothing is written yet"
    other = board.send_form("/write/card", text=CARD + "# later\n", act="write", checked=_seal(shown)).text
    assert "was changed after it was checked" in other
    assert board.get("/graph/Method", params={"id": "BoardMethod"}).status_code == 404
    done = board.send_form("/write/card", text=CARD, act="write", checked=_seal(shown), by="Ada").text
    assert "Written to the graph" in done
    node = board.get("/graph/Method", params={"id": "BoardMethod"}).text
    assert "Ada" in node
    assert "<script>alert" not in node
    assert CARD.splitlines()[3] in board.get("/write/card", params={"of": "BoardMethod"}).text


def test_results_are_refused_with_the_commands_message(board: Client) -> None:
    empty = board.get("/write/results?as=text").text
    template = html.unescape(re.search(r'<textarea id="text"[^>]*>\n(.*?)</textarea>', empty, re.S)[1])
    answer = board.send_form("/write/results", text=template, act="check")
    assert answer.status_code == 400
    assert "the results" in re.search(r'role="alert">(.*?)</p>', answer.text, re.S)[1]


def _wrong(page: str) -> dict[str, str]:
    """What is said beside each input."""
    found = re.findall(r'<p class="wrong" id="([^"]+)-wrong">(.*?)</p>', page, re.S)
    return {name: html.unescape(said) for name, said in found}


METHOD = {
    "as": "fields", "method": "Fielded", "title": "A method in fields", "citation": "A. Author. A title. 2026.",
    "family": "structured pruning", "techniques.0.id": "TE3", "techniques.3.id": "fielded-one",
    "techniques.3.title": "its own",
    "hyperparameters.0.id": "HP2", "hyperparameters.0.meaning": "parameters to remove in this step",
    "hyperparameters.0.unit": "share of the original parameters", "hyperparameters.0.values": "0.1, 0.2",
}  # fmt: skip


def test_a_card_of_fields_is_checked_field_by_field_and_written(board: Client) -> None:
    broken = METHOD | {"citation": "", "techniques.3.title": "", "hyperparameters.0.values": "0.2, 0.1"}
    refused = board.send_form("/write/card", **broken, act="check")
    assert refused.status_code == 400
    said = _wrong(refused.text)
    assert set(said) == {"citation", "hyperparameters.0.values"}
    assert "ascend" in said["hyperparameters.0.values"]
    assert 'aria-describedby="citation-wrong" autofocus' in refused.text
    assert 'value="0.2, 0.1"' in refused.text, "nothing of what was typed is lost"
    known = board.send_form("/write/card", **METHOD | {"techniques.3.title": ""}, act="check").text
    assert "unknown technique" in _wrong(known)["techniques.1.title"], "rows without text are left out"
    shown = board.send_form("/write/card", **METHOD, act="check").text
    assert "Fielded" in shown
    assert _wrong(shown) == {}
    assert board.get("/graph/Method", params={"id": "Fielded"}).status_code == 404, "nothing is written yet"
    done = board.send_form("/write/card", **METHOD, act="write", checked=_seal(shown), by="Ada").text
    assert "Written to the graph" in done
    assert "Ada" in board.get("/graph/Method", params={"id": "Fielded"}).text
    kept = board.get("/write/card", params={"of": "Fielded"}).text
    assert "values:" in kept
    again = board.send_form(
        "/write/card", text=html.unescape(kept.split("required>\n")[1].split("</textarea>")[0]), act="fields"
    )
    assert 'value="0.1, 0.2"' in again.text


PAPER = {
    "as": "fields", "paper.id": "fields2026", "paper.title": "In fields", "entered_by": "Ada", "tasks.0.id": "t",
    "tasks.0.dataset.name": "cifar10", "tasks.0.dataset.classes": "10", "tasks.0.dataset.image_size": "32",
    "tasks.0.dataset.channels": "3", "tasks.0.dataset.images": "50,000", "tasks.0.model": "ResNet-20",
    "tasks.0.params": "0.27M", "tasks.0.top1_percent": "91.5%", "tasks.0.source": "Table 1",
} | {
    f"records.{row}.{name}": value for row in (0, 1) for name, value in {
        "id": f"fields2026_{row}", "method": "NS", "settings": "HP1=0.5", "task": "t", "top1_percent": f"9{row}",
        "params": f"{100 + row}k", "table": "Table 1", "source": "its PDF", "confidence": "verified-one-source"}.items()
}  # fmt: skip


def test_results_of_fields_are_a_table_of_inputs(board: Client) -> None:
    broken = {"paper.year": "soon", "records.0.params": "much", "records.1.top1_percent": "910"}
    said = _wrong(board.send_form("/write/results", **PAPER | broken, act="check").text)
    assert set(said) == set(broken)
    for wrong, place in (
        ({"records.1.method": "NX"}, "records.1.method"),
        ({"records.1.settings": "HP15=3"}, "records.1.settings"),
        ({"records.1.source": ""}, "records.1.source"),
        ({"tasks.0.dataset.classes": "1"}, "tasks.0.dataset.classes"),
    ):
        answer = board.send_form("/write/results", **PAPER | wrong, act="check")
        assert answer.status_code == 400
        assert set(_wrong(answer.text)) == {place}
    more = board.send_form("/write/results", **PAPER | {"records.2.id": ""}, act="more:records").text
    assert 'id="records.3.id"' in more
    shown = board.send_form("/write/results", **PAPER, act="check").text
    assert "fields2026_1" in shown
    done = board.send_form("/write/results", **PAPER, act="write", checked=_seal(shown)).text
    assert "Written to the graph" in done
    assert "fields2026_0" in board.get("/graph/Paper", params={"id": "fields2026"}).text
    text = board.send_form("/write/results", **PAPER, act="text").text
    assert "images: 50000" in text
    kept = board.send_form("/write/results", text="format: 1\nchecked_by: Bob\n", act="fields")
    assert kept.status_code == 400
    assert "first at checked_by" in kept.text
    assert "checked_by: Bob" in kept.text
    assert board.send_form("/write/results", text="a: [", act="fields").status_code == 400


def test_documents_that_come_along_fill_fields_and_say_the_same_again() -> None:
    filled = 0
    for paths, parts, shape in (
        (packaged_cards(), CARD_FIELDS, Card),
        (packaged_experience(), RESULTS, ExperienceFile),
    ):
        for path in paths[::12]:
            said = read_yaml(path.read_text())[0]
            try:
                inputs = inputs_of(parts, said)
            except AutoMCError:
                continue
            again, errors = content(parts, inputs)
            assert not errors
            assert misfits(shape, again, inputs) == {}
            assert shape.model_validate(again) == shape.model_validate(said), path
            filled += 1
    assert filled > 10
