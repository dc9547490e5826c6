from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from mer_ray.evaluation import charts
from mer_ray.evaluation.charts import Bar, Line, Margin

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(markup: str, style: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(markup).iter(f"{SVG}rect") if str(e.get("class")).startswith(style)]


def test_a_line_rises_with_its_values_and_skips_what_is_missing() -> None:
    svg = ET.fromstring(charts.line_chart("WAF", ["0", "1", "2", "3"], [Line("test", [0.6, None, 0.7, 0.65])]))
    places = [tuple(map(float, point.split(","))) for point in _points(svg)]
    assert len(places) == 3
    xs, ys = zip(*places, strict=True)
    assert list(xs) == sorted(xs)
    assert ys[1] < ys[2] < ys[0], "a higher value stands higher on the page"


def _points(svg: ET.Element) -> list[str]:
    line = svg.find(f"{SVG}polyline")
    assert line is not None
    return str(line.get("points")).split()


def test_dropped_rounds_are_hollow() -> None:
    markup = charts.line_chart("WAF", ["0", "1"], [Line("test", [0.6, 0.7])], hollow=[False, True])
    shapes = [str(e.get("class")).split()[0] for e in ET.fromstring(markup).iter(f"{SVG}circle")]
    assert shapes == ["dot", "hollow"]


def test_stacks_are_as_high_as_their_counts() -> None:
    markup = charts.stacked_bars("adopted", ["0", "1"], [[3, 1], [0, 2]], ["a", "b"])
    heights = [float(str(e.get("height"))) for e in rectangles(markup, "part")]
    assert heights == pytest.approx([3 * heights[1], heights[1], 2 * heights[1]], abs=0.2)
    bottom = [float(str(e.get("y"))) + float(str(e.get("height"))) for e in rectangles(markup, "part")]
    assert bottom[1] == pytest.approx(float(str(rectangles(markup, "part")[0].get("y"))), abs=0.2), "parts touch"


def test_bars_are_as_long_as_their_values() -> None:
    markup = charts.horizontal_bars("x", [Bar("a", 0.5, "50"), Bar("b", 0.25, "25")], longest=1.0)
    full = float(str(rectangles(markup, "track")[0].get("width")))
    assert [float(str(e.get("width"))) for e in rectangles(markup, "part")] == pytest.approx(
        [full / 2, full / 4], abs=0.1
    )


def test_a_histogram_counts_every_value_once() -> None:
    values = [-3.0, 0.0, 0.1, 5.0, 5.0, 9.99]
    titles = [e.findtext(f"{SVG}title", "") for e in rectangles(charts.histogram("x", values, "dB"), "part")]
    assert sum(int(title.rsplit(": ", 1)[1]) for title in titles) == len(values)


@pytest.mark.parametrize(
    "markup",
    [
        charts.line_chart("x", ["0"], [Line("a", [None])]),
        charts.stacked_bars("x", [], [], []),
        charts.stacked_bars("x", ["0"], [[0]], ["a"]),
        charts.histogram("x", [], "dB"),
        charts.margins("x", []),
        charts.reliability_chart("x", []),
    ],
)
def test_nothing_to_draw_is_no_chart(markup: str) -> None:
    assert markup == ""


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [0.7, 0.7], [-0.1, -0.1], [1e-9, 2e-9]])
def test_one_value_or_equal_values_are_drawn(values: list[float]) -> None:
    markup = charts.line_chart("x", [str(i) for i in range(len(values))], [Line("a", values)])
    assert len(_points(ET.fromstring(markup))) == len(values)
    assert rectangles(charts.histogram("x", values, "dB"), "part")


def test_text_is_escaped() -> None:
    bad = '<script>"&'
    for markup in (
        charts.horizontal_bars(bad, [Bar(bad, 1.0, bad)]),
        charts.line_chart(bad, [bad], [Line(bad, [0.5])]),
        charts.stacked_bars(bad, [bad], [[1]], [bad]),
        charts.histogram(bad, [1.0, 2.0], bad),
    ):
        assert "<script>" not in markup
        assert any(bad in str(e.text) for e in ET.fromstring(markup).iter())


def test_the_best_of_a_spread_chart_is_filled_and_whiskers_are_as_long_as_the_spread() -> None:
    svg = ET.fromstring(charts.spread_chart("WAF", ["16", "17", "18"], [0.6, 0.8, 0.7], [0.05, 0.1, 0.0]))
    shapes = [str(e.get("class")).split()[0] for e in svg.iter(f"{SVG}circle")]
    assert shapes == ["hollow", "dot", "hollow"]
    whiskers = [e for e in svg.iter(f"{SVG}line") if str(e.get("class")).startswith("whisker")]
    lengths = [abs(float(str(e.get("y1"))) - float(str(e.get("y2")))) for e in whiskers]
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=0.2)
    assert lengths[2] == 0
    assert [e.text for e in svg.iter(f"{SVG}text") if e.get("class") == "value"] == ["80"]
    assert charts.spread_chart("WAF", [], [], []) == ""


def test_margins_stand_left_and_right_of_zero_with_whiskers_as_long_as_their_spread() -> None:
    rows = [Margin("a", -0.02, 0.01), Margin("b", 0.04, 0.02, strong=True), Margin("c", 0.0, 0.0)]
    svg = ET.fromstring(charts.margins("gain", rows))
    (zero,) = [float(str(e.get("x1"))) for e in svg.iter(f"{SVG}line") if e.get("class") == "axis"]
    dots = list(svg.iter(f"{SVG}circle"))
    assert [str(e.get("class")).split()[0] for e in dots] == ["hollow", "dot", "hollow"]
    away = [float(str(e.get("cx"))) - zero for e in dots]
    assert away[1] == pytest.approx(-2 * away[0], abs=0.2)
    assert (away[0] < 0, away[2]) == (True, 0)
    whiskers = [e for e in svg.iter(f"{SVG}line") if str(e.get("class")).startswith("whisker")]
    lengths = [float(str(e.get("x2"))) - float(str(e.get("x1"))) for e in whiskers]
    assert lengths == pytest.approx([-away[0], away[1], 0], abs=0.2)
    assert len({str(e.get("cy")) for e in dots}) == 3, "a row each"


def test_who_is_as_sure_as_right_lies_on_the_line() -> None:
    svg = ET.fromstring(charts.reliability_chart("sure", [(0.5, 0.5, 3), (0.9, 0.6, 4)]))
    (line,) = [e for e in svg.iter(f"{SVG}line") if e.get("class") == "axis dashed"]
    x1, y1, x2, y2 = (float(str(line.get(end))) for end in ("x1", "y1", "x2", "y2"))
    places = [(float(str(e.get("cx"))), float(str(e.get("cy")))) for e in svg.iter(f"{SVG}circle")]
    below = [y - (y1 + (y2 - y1) * (x - x1) / (x2 - x1)) for x, y in places]
    assert below[0] == pytest.approx(0, abs=0.2)
    assert below[1] == pytest.approx(0.3 * (y1 - y2), abs=0.2), "too sure is below, lower on the page"
