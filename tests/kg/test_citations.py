"""What the packaged cards and experience cite: addresses that can be right, and one address for one paper."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from urllib.parse import urlsplit

import yaml

from kg.cards import read_cards
from kg.experience import packaged_experience
from kg.schema import Method

ARXIV = re.compile(r"https://arxiv\.org/abs/(\d\d)(0[1-9]|1[0-2])\.(\d{4}|\d{5})")
MANY = {"github.com", "www.tensorflow.org", "pytorch.org"}
"""Hosts of tools, whose one address stands for everything that a tool does."""


@cache
def _methods() -> tuple[Method, ...]:
    return read_cards()


def _posted(url: str) -> int | None:
    """Year in which a paper was posted, from its arXiv address; None for other addresses."""
    if "arxiv.org" not in url:
        return None
    match = ARXIV.fullmatch(url)
    assert match, f"{url} is no address of a paper on arXiv"
    year, month, number = match.groups()
    assert len(number) == (4 if f"{year}{month}" < "1501" else 5), f"{url}: arXiv counts in five digits since 2015"
    return 2000 + int(year)


def test_addresses_are_whole():
    for method in _methods():
        parts = urlsplit(method.url)
        assert parts.scheme == "https", method.id
        assert "." in parts.netloc, method.id
        assert re.fullmatch(r"\S+", method.url), method.id


def test_papers_appear_when_they_are_posted_or_within_two_years():
    for method in _methods():
        posted = _posted(method.url)
        years = [int(year) for year in re.findall(r"\b(?:19|20)\d\d\b", method.citation)]
        assert posted is None or any(0 <= year - posted <= 2 for year in years), f"{method.id}: {method.citation}"
    for path in packaged_experience():
        paper = yaml.safe_load(path.read_text().partition("\nentered_by")[0])["paper"]
        posted = _posted(paper.get("url", ""))
        assert posted is None or 0 <= paper["year"] - posted <= 2, f"{path.name}: {paper}"


def test_one_address_is_one_paper():
    """Cards that share the address of a paper share its title; titles are told from authors by their length."""
    titles: dict[str, list[set[str]]] = defaultdict(list)
    for method in _methods():
        if urlsplit(method.url).netloc not in MANY:
            sentences = re.split(r"(?<=[.?!])\s+", method.citation)
            titles[method.url].append({sentence for sentence in sentences if len(sentence.split()) >= 4})
    for url, cited in titles.items():
        assert len(cited) == 1 or set.intersection(*cited), f"{url} stands for different papers"
