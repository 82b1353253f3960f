"""The page of what learned parts cost and gain: every figure of it is still where it is read."""

from benchmarks.parts import PARTS, SOURCES, page


def test_every_figure_of_the_page_is_found():
    text = page()
    assert all(part.name in text for part in PARTS)
    assert all(source.name in text for source in SOURCES)
    assert "nan" not in text
