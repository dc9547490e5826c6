"""Small charts as inline SVG that take their colours from the page's CSS, so that they follow light and dark.

Classes used: ``s0 .. s9`` (colours of categories), ``s10`` (accent), ``s11`` (muted); ``axis``, ``grid``, ``tick``,
``value``, ``name``, ``part``, ``track``, ``line``, ``trace``, ``dot``, ``hollow``, ``dashed``, ``whisker``.

All text is escaped by ElementTree. Every chart has a title and a description for screen readers. A chart is at most
``WIDTH`` units wide, which is about a phone's width, so that its letters stay readable there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

from markupsafe import Markup

WIDTH = 440
NUM_COLOURS = 10
ACCENT, MUTED = 10, 11
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 14, 18, 34
_BAR_PITCH = 30
_NAME_WIDTH, _VALUE_WIDTH = 124, 108
_LONGEST_NAME = 18
_AXIS_PITCH = 46


@dataclass(frozen=True)
class Line:
    """One line of a line chart: a value per x, None where there is none, in the colour of ``series``."""

    name: str
    values: Sequence[float | None]
    series: int = ACCENT
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """One horizontal bar: what it is called, how long it is, what is written beside it."""

    name: str
    value: float
    text: str
    series: int = ACCENT


@dataclass(frozen=True)
class Margin:
    """One row of a chart of margins: a difference and its spread; a ``strong`` one stands out."""

    name: str
    value: float
    spread: float
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis of a chart of parallel coordinates.

    Attributes:
        name: written above it.
        places: of each trace, from 0 (left) to 1 (right); None where the trace does not have it.
        ticks: places and what is written below them.
    """

    name: str
    places: Sequence[float | None]
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Trace:
    """One line through all axes: what it is called, its colour, and whether it stands out."""

    name: str
    series: int = MUTED
    strong: bool = False


def line_chart(title: str, x_names: Sequence[str], lines: Sequence[Line], hollow: Sequence[bool] = ()) -> Markup:
    """Lines over named x positions, values shown in per cent; ``hollow`` marks x positions whose points are open."""
    height = 250
    known = [value for line in lines for value in line.values if value is not None]
    if not known:
        return Markup()
    ticks = nice_ticks(min(known), max(known))
    x = _Scale(-0.35, max(len(x_names) - 0.65, 0.65), _LEFT, WIDTH - _RIGHT)
    y = _Scale(ticks[0], ticks[-1], height - _BOTTOM, _TOP)
    said = "; ".join(f"{line.name}: " + ", ".join(_percent(value) for value in line.values) for line in lines)
    svg = _svg(title, said, height)
    _grid(svg, ticks, y, [_percent(tick) for tick in ticks])
    _x_names(svg, x_names, x, height)
    for line in lines:
        points = [(x(i), y(value), i) for i, value in enumerate(line.values) if value is not None]
        style = f"s{line.series}"
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
        ET.SubElement(svg, "polyline", {"class": f"line {style}" + (" dashed" if line.dashed else ""), "points": path})
        for px, py, i in points:
            shape = "hollow" if i < len(hollow) and hollow[i] else "dot"
            dot = ET.SubElement(svg, "circle", {"class": f"{shape} {style}"} | _places(cx=px, cy=py, r=4.5))
            ET.SubElement(dot, "title").text = f"{line.name}, {x_names[i]}: {_percent(line.values[i])}"
    return _markup(svg)


def spread_chart(title: str, x_names: Sequence[str], values: Sequence[float], spreads: Sequence[float]) -> Markup:
    """Points joined by a line, each with a whisker of its spread to both sides; the highest is filled and named."""
    height = 250
    if not values:
        return Markup()
    best = max(range(len(values)), key=lambda i: values[i])
    ends = [(value - spread, value + spread) for value, spread in zip(values, spreads, strict=True)]
    ticks = nice_ticks(max(0.0, min(low for low, _ in ends)), max(high for _, high in ends))
    x = _Scale(-0.5, len(x_names) - 0.5, _LEFT, WIDTH - _RIGHT)
    y = _Scale(ticks[0], ticks[-1], height - _BOTTOM, _TOP)
    told = [
        f"{name}: {_percent(value)} ± {_percent(spread)}"
        for name, value, spread in zip(x_names, values, spreads, strict=True)
    ]
    svg = _svg(title, "; ".join(told), height)
    _grid(svg, ticks, y, [_percent(tick) for tick in ticks])
    _x_names(svg, x_names, x, height)
    for i, (low, high) in enumerate(ends):
        _line(svg, (x(i), y(max(low, ticks[0]))), (x(i), y(high)), f"whisker s{ACCENT if i == best else MUTED}")
    path = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values))
    ET.SubElement(svg, "polyline", {"class": f"line s{MUTED}", "points": path})
    for i, value in enumerate(values):
        style, radius = (f"dot s{ACCENT}", 6.0) if i == best else (f"hollow s{MUTED}", 4.5)
        dot = ET.SubElement(svg, "circle", {"class": style} | _places(cx=x(i), cy=y(value), r=radius))
        ET.SubElement(dot, "title").text = told[i]
    _text(svg, (x(best), y(ends[best][1]) - 5), _percent(values[best]), "value", "middle")
    return _markup(svg)


def stacked_bars(title: str, x_names: Sequence[str], stacks: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """One column per x, made of one part per name, the total written above."""
    height = 250
    totals = [sum(stack) for stack in stacks]
    if not any(totals):
        return Markup()
    ticks = nice_ticks(0, max(totals))
    x = _Scale(-0.5, len(stacks) - 0.5, _LEFT, WIDTH - _RIGHT)
    y = _Scale(0, ticks[-1], height - _BOTTOM, _TOP)
    said = "; ".join(
        f"{x_name}: " + ", ".join(f"{name} {part}" for name, part in zip(names, stack, strict=True) if part)
        for x_name, stack in zip(x_names, stacks, strict=True)
    )
    svg = _svg(title, said, height)
    _grid(svg, ticks, y, [_compact(tick) for tick in ticks])
    _x_names(svg, x_names, x, height)
    width = min(54.0, 0.62 * (x(1) - x(0)))
    for i, stack in enumerate(stacks):
        below = 0
        for series, part in enumerate(stack):
            if part:
                top = y(below + part)
                box = _rect(svg, (x(i) - width / 2, top), (width, y(below) - top), f"part s{series}")
                ET.SubElement(box, "title").text = f"{x_names[i]}, {names[series]}: {part}"
                below += part
        _text(svg, (x(i), y(below) - 5), f"{totals[i]:,}", "value", "middle")
    return _markup(svg)


def horizontal_bars(title: str, bars: Sequence[Bar], longest: float | None = None) -> Markup:
    """One bar per row, its name at the left and its text at its end; ``longest`` is the value of a full bar."""
    full = longest or max((bar.value for bar in bars), default=0.0) or 1.0
    svg = _svg(title, "; ".join(f"{bar.name}: {bar.text}" for bar in bars), _BAR_PITCH * len(bars) + 4)
    room = WIDTH - _NAME_WIDTH - _VALUE_WIDTH
    for i, bar in enumerate(bars):
        top = _BAR_PITCH * i + 4
        middle = top + _BAR_PITCH / 2 + 1
        length = max(room * min(max(bar.value, 0.0) / full, 1.0), 1.5)
        name = _text(svg, (_NAME_WIDTH - 10, middle), _shorten(bar.name), "name", "end")
        ET.SubElement(name, "title").text = bar.name
        _rect(svg, (_NAME_WIDTH, top + 5), (room, _BAR_PITCH - 12), "track", radius=3)
        _rect(svg, (_NAME_WIDTH, top + 5), (length, _BAR_PITCH - 12), f"part s{bar.series}", radius=3)
        _text(svg, (WIDTH - _VALUE_WIDTH + 10, middle), bar.text, "value", "start")
    return _markup(svg)


def margins(title: str, rows: Sequence[Margin]) -> Markup:
    """One row per difference, a point with a whisker of its spread to both sides, in points beside a line at zero."""
    if not rows:
        return Markup()
    height = _BAR_PITCH * len(rows) + _BOTTOM
    ends = [row.value + side * row.spread for row in rows for side in (-1, 1)]
    ticks = nice_ticks(100 * min(0.0, *ends), 100 * max(0.0, *ends))
    x = _Scale(ticks[0] / 100, ticks[-1] / 100, _NAME_WIDTH, WIDTH - _RIGHT)
    told = [f"{row.name}: {_points(round(100 * row.value, 1))} ± {_percent(row.spread)}" for row in rows]
    svg = _svg(title, "; ".join(told), height)
    for tick in ticks:
        _line(svg, (x(tick / 100), 4), (x(tick / 100), height - _BOTTOM + 4), "grid" if tick else "axis")
        _text(svg, (x(tick / 100), height - 12), _points(tick), "tick", "middle")
    for i, row in enumerate(rows):
        middle, style = _BAR_PITCH * (i + 0.5) + 4, f"s{ACCENT if row.strong else MUTED}"
        name = _text(svg, (_NAME_WIDTH - 10, middle + 4), _shorten(row.name), "name", "end")
        ET.SubElement(name, "title").text = row.name
        _line(svg, (x(row.value - row.spread), middle), (x(row.value + row.spread), middle), f"whisker {style}")
        shape, radius = ("dot", 6.0) if row.strong else ("hollow", 4.5)
        dot = ET.SubElement(
            svg, "circle", {"class": f"{shape} {style}"} | _places(cx=x(row.value), cy=middle, r=radius)
        )
        ET.SubElement(dot, "title").text = told[i]
    return _markup(svg)


def reliability_chart(title: str, bins: Sequence[tuple[float, float, int]]) -> Markup:
    """Of each bin (mean confidence, share right, clips) a point, beside the line where the two are equal."""
    if not bins:
        return Markup()
    height = 300
    ticks = nice_ticks(0, 1)
    x, y = _Scale(0, 1, _LEFT, WIDTH - _RIGHT), _Scale(0, 1, height - _BOTTOM, _TOP)
    told = [f"{_percent(sure)} sure, {_percent(right)} right, {count} clips" for sure, right, count in bins]
    svg = _svg(title, "; ".join(told), height)
    _grid(svg, ticks, y, [_percent(tick) for tick in ticks])
    for tick in ticks:
        _text(svg, (x(tick), height - 12), _percent(tick), "tick", "middle")
    _line(svg, (x(0), y(0)), (x(1), y(1)), "axis dashed")
    path = " ".join(f"{x(sure):.1f},{y(right):.1f}" for sure, right, _ in bins)
    ET.SubElement(svg, "polyline", {"class": f"line s{ACCENT}", "points": path})
    for (sure, right, _), text in zip(bins, told, strict=True):
        dot = ET.SubElement(svg, "circle", {"class": f"dot s{ACCENT}"} | _places(cx=x(sure), cy=y(right), r=4.5))
        ET.SubElement(dot, "title").text = text
    return _markup(svg)


def histogram(title: str, values: Sequence[float], unit: str, num_bins: int = 16) -> Markup:
    """How many values fall where, with a line at zero when it is within."""
    if not values:
        return Markup()
    height = 190
    ticks = nice_ticks(min(values), max(values), num_ticks=6)
    low, high = ticks[0], ticks[-1]
    counts = [0] * num_bins
    for value in values:
        counts[min(int((value - low) / (high - low) * num_bins), num_bins - 1)] += 1
    x = _Scale(low, high, _LEFT, WIDTH - _RIGHT)
    y = _Scale(0, max(counts), height - _BOTTOM, _TOP)
    svg = _svg(title, f"{len(values)} values from {min(values):.1f} to {max(values):.1f} {unit}", height)
    step = (high - low) / num_bins
    for i, count in enumerate(counts):
        if count:
            left = low + i * step
            box = _rect(
                svg,
                (x(left) + 1, y(count)),
                (x(left + step) - x(left) - 2, y(0) - y(count)),
                f"part s{ACCENT}",
                radius=2,
            )
            ET.SubElement(box, "title").text = f"{left:.1f} to {left + step:.1f} {unit}: {count}"
    _line(svg, (_LEFT, y(0)), (WIDTH - _RIGHT, y(0)), "axis")
    if low < 0 < high:
        _line(svg, (x(0), _TOP - 6), (x(0), y(0)), "axis dashed")
    for tick in ticks:
        _text(svg, (x(tick), height - 14), _points(tick), "tick", "middle")
    _text(svg, (WIDTH - _RIGHT, _TOP - 6), unit, "tick", "end")
    return _markup(svg)


def parallel_coordinates(title: str, axes: Sequence[Axis], traces: Sequence[Trace]) -> Markup:
    """Axes one below the other, and a trace for each thing across them; the first that stands out is on top.

    A trace is broken where it lacks an axis; a dot marks each place that it has.
    """
    if not axes or not traces:
        return Markup()
    svg = _svg(title, "; ".join(axis.name for axis in axes), _AXIS_PITCH * len(axes) + 8)
    x = _Scale(0, 1, _LEFT, WIDTH - _LEFT)
    for i, axis in enumerate(axes):
        y = _AXIS_PITCH * i + 22
        _line(svg, (x(0), y), (x(1), y), "axis")
        _text(svg, (x(0), y - 8), axis.name, "name", "start")
        for place, text in axis.ticks:
            anchor = "start" if place < 0.05 else "end" if place > 0.95 else "middle"
            _text(svg, (x(place), y + 14), text, "tick", anchor)
    for number, trace in sorted(enumerate(traces), key=lambda one: (one[1].strong, -one[0])):
        style = f"s{trace.series}" + (" strong" if trace.strong else "")
        group = ET.SubElement(svg, "g", {"class": style})
        ET.SubElement(group, "title").text = trace.name
        places = [axis.places[number] for axis in axes]
        at = [None if place is None else (x(place), _AXIS_PITCH * i + 22.0) for i, place in enumerate(places)]
        for start, end in pairwise(at):
            if start is not None and end is not None:
                _line(group, start, end, "trace")
        for point in at:
            if point is not None:
                ET.SubElement(group, "circle", {"class": "dot"} | _places(cx=point[0], cy=point[1], r=2.5))
    return _markup(svg)


def nice_ticks(low: float, high: float, num_ticks: int = 5) -> list[float]:
    """Round numbers, evenly spaced, that enclose ``low`` and ``high``.

    >>> nice_ticks(0.613, 0.788)
    [0.6, 0.65, 0.7, 0.75, 0.8]
    >>> nice_ticks(0, 0)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high <= low:
        low, high = (0.0, high) if high > 0 else (low, low + 1.0)
    raw = (high - low) / max(num_ticks - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """A straight line from values to places on the page."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _svg(title: str, description: str, height: int) -> ET.Element:
    return ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {height}",
            "role": "img",
            "aria-label": f"{title}. {description}",
            "xmlns": "http://www.w3.org/2000/svg",
        },
    )


def _grid(svg: ET.Element, ticks: Sequence[float], y: _Scale, names: Sequence[str]) -> None:
    for tick, name in zip(ticks, names, strict=True):
        _line(svg, (_LEFT, y(tick)), (WIDTH - _RIGHT, y(tick)), "grid")
        _text(svg, (_LEFT - 6, y(tick) + 4), name, "tick", "end")


def _x_names(svg: ET.Element, names: Sequence[str], x: _Scale, height: int) -> None:
    every = math.ceil(len(names) / 8)
    for i, name in enumerate(names):
        if i % every == 0 or i == len(names) - 1:
            _text(svg, (x(i), height - 12), name, "tick", "middle")


def _line(svg: ET.Element, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
    ET.SubElement(svg, "line", {"class": style} | _places(x1=start[0], y1=start[1], x2=end[0], y2=end[1]))


def _rect(
    svg: ET.Element, corner: tuple[float, float], size: tuple[float, float], style: str, radius: float = 0
) -> ET.Element:
    places = _places(x=corner[0], y=corner[1], width=max(size[0], 0), height=max(size[1], 0), rx=radius)
    return ET.SubElement(svg, "rect", {"class": style} | places)


def _text(svg: ET.Element, at: tuple[float, float], text: str, style: str, anchor: str) -> ET.Element:
    element = ET.SubElement(svg, "text", {"class": style, "text-anchor": anchor} | _places(x=at[0], y=at[1]))
    element.text = text
    return element


def _places(**places: float) -> dict[str, str]:
    return {name: f"{place:.1f}" for name, place in places.items()}


def _markup(svg: ET.Element) -> Markup:
    return Markup(ET.tostring(svg, encoding="unicode", short_empty_elements=False))


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}".removesuffix(".0")


def _points(value: float) -> str:
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _compact(value: float) -> str:
    return f"{value:g}" if value < 10_000 else f"{value / 1000:g}k"


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
