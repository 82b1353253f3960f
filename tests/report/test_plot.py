"""Plots: what is drawn lies where its figures say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automc.report.plot import Mark, Scale, span, svg, text

figures = st.floats(-1e4, 1e4).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(st.lists(st.tuples(figures, figures), min_size=1, max_size=20))
def test_a_plot_is_well_formed_and_keeps_the_order_of_its_marks(points):
    drawing = svg([Mark(a, b, label=f"<{a} & {b}>") for a, b in points], x="x < y", y="y & z", title='a "plot"')
    circles = ET.fromstring(drawing).findall("circle")
    assert len(circles) == len(points)
    for axis, sign in (("cx", 1), ("cy", -1)):
        drawn = [sign * float(c.attrib[axis]) for c in circles]
        values = [p[0 if axis == "cx" else 1] for p in points]
        order = sorted(range(len(points)), key=lambda i: values[i])
        assert all(drawn[a] <= drawn[b] + 0.11 for a, b in pairwise(order))
    assert all(0 <= float(c.attrib["cx"]) <= 640 and 0 <= float(c.attrib["cy"]) <= 360 for c in circles)
    assert circles[0].find("title").text == f"<{points[0][0]} & {points[0][1]}>"


@given(figures, st.floats(1e-3, 1e4))
def test_ticks_are_few_round_and_inside(low, width):
    ticks = Scale(low, low + width, 0, 100).ticks()
    assert 2 <= len(ticks) <= 12
    slack = 1e-6 * max(1.0, abs(low) + width)
    assert all(low - slack <= t <= low + width + slack for t in ticks)


def test_a_range_has_room_even_for_one_value():
    low, high = span([0.5])
    assert low < 0.5 < high
    assert span([0.0])[0] < 0 < span([0.0])[1]


def test_a_plot_of_text_puts_the_best_last_and_on_top():
    marks = [Mark(0.3, 0.9, "dot"), Mark(0.8, 0.5, "dot"), Mark(0.3, 0.9, "chosen")]
    drawn = text(marks, {"dot": "·", "chosen": "*"}, width=30, height=8).splitlines()
    assert len(drawn) == 10
    assert "*" in drawn[0] + drawn[1], "the higher one is above"
    assert "·" in drawn[6] + drawn[7]
    assert re.search(r"\*", "\n".join(drawn))
    assert sum(line.count("·") for line in drawn) == 1, "the recommended one covers what lies under it"
    assert text([], {}) == ""


@pytest.mark.parametrize("n", [1, 2])
def test_few_marks_do_not_break_it(n):
    page = ET.fromstring(svg([Mark(1.0, 1.0)] * n, x="x", y="y", title="t", lines=[("front", [(0, 0)])]))
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in page.findall("circle")]
    (line,) = (tuple(map(float, p.attrib["points"].split(","))) for p in page.findall("polyline"))
    assert len(circles) == n
    assert all(x > line[0] and y < line[1] for x, y in circles), "each mark is right of and above the line's one point"
