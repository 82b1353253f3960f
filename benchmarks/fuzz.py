"""Mutated input: cards, experience files, rows, schemes and what is asked for are read, or refused in our own words.

Each case is a valid text of its kind with one to four mutations: characters flipped, cut or doubled, words put in that
are known to make trouble, values of a YAML document replaced. Anything but an answer or one of our own errors is a
foreign exception, and so is an answer that is not the same when it is written and read again. Nothing is run or saved.

    python benchmarks/fuzz.py --cases 20000 --seed 0
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from automc.errors import AutoMCError
from automc.study.limits import KINDS, Limit, parse_bytes, parse_drop
from automc.study.spec import Budget
from kg.cards import Card, enumerate_strategies, packaged_cards, read_cards
from kg.curation.documents import Source, read_document, write_document
from kg.curation.template import QUESTIONS, fill
from kg.errors import CardInvalid, ExperienceInvalid
from kg.experience import packaged_experience, read_experience
from kg.experience_file import ExperienceFile
from kg.rows import read_rows
from kg.schema import Scheme, Strategy

WORDS = (
    "nan", "inf", "-inf", ".inf", ".nan", "1e999", "-0", "9" * 25, "9" * 5000, "1e-400", "0x7f", "1_000", "1:30", "null", "~",
    "true", "no", "2020-13-45", "2020-01-01", "!!set {x}", "!!binary aGk=", "!!python/name:os.system", "&a [*a]", "*a",
    "<<: *a", "{", "}", "[", "]", "- ", ": ", "? ", "|", ">", "%", "@", "`", "'", '"', "\\", "#", "\t", "\r", "\n", "\r\n",
    "\0", "\x85", "\ufeff", "\u2028", "\u00a0", "é", "😀", "٣", "½", "−", "--- ", "...", "->", ",", "=", "HP2", "HP2=", "HP99=1",
    "$x", "{{x}}", "%s", " " * 300, "a" * 3000, "[" * 60, "{a: " * 60,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**30, -(10**30), 2**63, 1e308, -1e308, 1e-320, float("inf"), float("nan"), "", " ", "x",
    "a]b", "a,b", "a\nb", "9" * 400, [], {}, [[]], [1, "a"], {"a": 1}, {1: 2}, {None: 1}, b"bytes", {1, 2},
    yaml.safe_load("2020-01-01"), yaml.safe_load("2020-01-01T10:00:00Z"), "START", "HP1=0.1", "1e5", 0.5, 7,
)  # fmt: skip


@dataclass
class Counts:
    """What came of the cases of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    """(input, traceback) of what must not happen."""
    slowest_seconds: float = 0.0
    slowest: str = ""


def mutated(text: str, rng: random.Random) -> str:
    """Return a text with one to four changes."""
    if rng.random() < 0.4:
        text = _restructured(text, rng)
    for _ in range(rng.randint(1, 4)):
        place, other = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:place] + rng.choice(WORDS) + text[place:]
        elif kind == 1:
            text = text[:place] + rng.choice(WORDS) + text[min(other, place + rng.randint(1, 12)) :]
        elif kind == 2:
            text = text[:place] + text[min(other, place + rng.randint(1, 40)) :]
        elif kind == 3:
            text = text[:place] + chr(rng.randrange(1, 0x250)) + text[place + 1 :]
        elif kind == 4:
            text = text[:other] + text[place : min(other, place + 80)] + text[other:]
        else:
            lines = text.split("\n")
            rng.shuffle(lines[(at := rng.randrange(len(lines))) : at + 3])
            text = "\n".join(lines[: at + 1] + lines[at:])
    return text


def _restructured(text: str, rng: random.Random) -> str:
    """A YAML document with some of its values replaced, written by a library that knows dates, sets and aliases."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    for _ in range(rng.randint(1, 3)):
        inner, parent, key = content, None, None  # type: Any, Any, Any
        while isinstance(inner, dict | list) and inner and (parent is None or rng.random() < 0.85):
            parent = inner
            key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            inner = inner[key]
        if parent is None:
            return text
        parent[key] = rng.choice((*(copy.deepcopy(value) for value in VALUES), content, parent))
    try:
        return str(yaml.safe_dump(content, allow_unicode=True))
    except (yaml.YAMLError, RecursionError, TypeError):
        return text


def read_card(text: str) -> None:
    """Read a card by itself, and what it says once more after writing it."""
    place = Source("card.yaml", text)
    (method,) = read_cards([place])
    written = Source("again.yaml", write_document(read_document(place, Card, CardInvalid)))
    _same(read_cards([written]), (method,))
    for strategy in list(enumerate_strategies(method))[:20]:
        _same(Strategy.parse(strategy.id), strategy)


METHODS = read_cards()


def read_paper(text: str) -> None:
    """Read an experience file, and what it says once more after writing it."""
    place = Source("paper.yaml", text)
    records, papers = read_experience([place], None, METHODS)
    written = Source("again.yaml", write_document(read_document(place, ExperienceFile, ExperienceInvalid)))
    _same(read_experience([written], None, METHODS), (records, papers))
    for one in records:
        _same(Strategy.parse(one.strategy.id), one.strategy)


def read_table(text: str) -> None:
    """Read records from rows."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8", errors="replace", newline="") as file:
        file.write(text)
        file.flush()
        read_rows(Path(file.name))


def read_scheme(text: str) -> None:
    """Read a scheme, and once more from its id."""
    found = Scheme.parse(text)
    _same(Scheme.parse(found.id), found)


def read_wish(text: str) -> None:
    """Read a text as a budget, as each limit, as a drop of accuracy and as a size on disk; one of them must be right."""
    found: list[object] = []
    limits: list[Callable[[str], object]] = [partial(_limit, kind) for kind in KINDS]
    readers: list[Callable[[str], object]] = [Budget.parse, parse_drop, parse_bytes]
    for read in readers + limits:
        try:
            found.append(read(text))
        except AutoMCError as error:
            last = error
    if not found:
        raise last


def _limit(kind: str, text: str) -> Limit:
    limit = Limit.parse(kind, text)
    if not math.isclose(Limit.parse(kind, str(limit)).amount, limit.amount, rel_tol=1e-9):
        raise AssertionError(f"{limit!r} is printed as {limit}")
    return limit


def read_answers(text: str) -> None:
    """Answer every question of the template with the lines of a text; what it makes of them must be YAML."""
    answers = {question.name: line for question, line in zip(QUESTIONS, text.split("\n"), strict=False)}
    filled = fill(answers)
    try:
        read_document(Source("template", filled), ExperienceFile, ExperienceInvalid)
    except ExperienceInvalid as error:
        if "not YAML" in str(error):
            raise AssertionError(f"the template is no YAML: {error}") from None
        raise


def _same(one: object, other: object) -> None:
    if one != other:
        raise AssertionError(f"read again it is another: {one!r:.300} and {other!r:.300}")


ROWS = """id,method,task,settings.HP1,settings.HP2,top1_percent,params.value,params.unit,published_ratio.fr,table,source,confidence,raw.x
a_001,NS,net_c10,0.2,0.4,91.2,0.12,M,,Table 1,page 3,verified-one-source,7
a_002,NS,net_c10,0.2,,90.2,,,0.4,Table 1,page 3,verified-one-source,
"""
SCHEMES = (
    "NS[HP1=0.2,HP2=0.12,HP6=0.9]\nLFB[HP1=0.3,HP2=0.2,HP15=0.9,HP16=MSE]  # then\n",
    "LeGR[HP1=0.2,HP2=0.12,HP6=0.9,HP7=0.5,HP8=l2_bn] -> SFP[HP2=0.2,HP9=0.2,HP10=1]",
    "START",
)
WISHES = ("30m", "1h30m", "40steps", "40%", "20M", "500KB", "3ms", "0.5pp", "20GiB", "1.5 MiB", "90s")
ANSWERS = "\n".join(question.example or "7" for question in QUESTIONS)

KINDS_OF_INPUT: dict[str, tuple[Callable[[], list[str]], Callable[[str], None]]] = {
    "cards": (
        lambda: [path.read_text() for path in packaged_cards() if path.stem in ("legr", "ns", "hos", "amc")],
        read_card,
    ),
    "experience": (
        lambda: [path.read_text() for path in packaged_experience() if path.stat().st_size < 6000],
        read_paper,
    ),
    "rows": (lambda: [ROWS], read_table),
    "schemes": (lambda: list(SCHEMES), read_scheme),
    "wishes": (lambda: list(WISHES), read_wish),
    "answers": (lambda: [ANSWERS], read_answers),
}
"""By name: texts to start from, and what reads them."""


def fuzz(kind: str, cases: int, seed: int) -> Counts:
    """Read `cases` mutated texts of a kind; the same seed gives the same texts."""
    starts, read = KINDS_OF_INPUT[kind]
    rng, texts, counts = random.Random(f"{kind} {seed}"), starts(), Counts()
    for _ in range(cases):
        text = mutated(rng.choice(texts), rng)
        began = time.process_time()
        try:
            read(text)
            counts.outcomes["read"] += 1
        except AutoMCError as error:
            counts.outcomes["refused"] += 1
            if not str(error).strip() or len(str(error)) > 5000:
                counts.foreign.append((text, f"a message of {len(str(error))} characters: {str(error)[:200]}"))
        except Exception:
            counts.outcomes["foreign"] += 1
            counts.foreign.append((text, traceback.format_exc(limit=-3)))
        seconds = time.process_time() - began
        if seconds > counts.slowest_seconds:
            counts.slowest_seconds, counts.slowest = seconds, text
    return counts


def main() -> int:
    """Fuzz every kind and print what came of it; 1 where anything foreign was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000, help="Of each kind.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS_OF_INPUT), action="append")
    given = parser.parse_args()
    foreign = 0
    for kind in given.kind or KINDS_OF_INPUT:
        counts = fuzz(kind, given.cases, given.seed)
        foreign += len(counts.foreign)
        said = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(counts.outcomes.items()))
        print(f"{kind}: {said}; {len(counts.foreign)} foreign; slowest {counts.slowest_seconds:.2f} s", flush=True)
        for text, what in counts.foreign[:5]:
            print(f"--- {text[:400]!r}\n{what}")
    return 1 if foreign else 0


if __name__ == "__main__":
    sys.exit(main())
