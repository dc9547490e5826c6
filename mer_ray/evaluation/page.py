"""What every page shares: the template engine with its filters, a colour per class, and how figures are written."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jinja2

from mer_ray.evaluation import charts
from mer_ray.types import SYNONYMS


def render_page(template: str, **shown: Any) -> str:  # noqa: ANN401 - what the template reads
    """A page from a template of this package, with the filters and the style that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mer_ray.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(percent=percent, points=points, seconds=seconds, data_uri=_data_uri, sha256=_sha256)
    page = environment.get_template(template).render(**shown)
    return page.lstrip().replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def class_colours(classes: tuple[str, ...]) -> dict[str, int]:
    """A colour per class: the usual one for the emotions of the public sets, else one that is free.

    >>> class_colours(("angry", "bored"))
    {'angry': 1, 'bored': 0}
    """
    usual = {
        name: _USUAL_COLOURS[meaning]
        for name in classes
        if (meaning := SYNONYMS.get(name.lower(), name.lower())) in _USUAL_COLOURS
    }
    free = [colour for colour in range(charts.NUM_COLOURS) if colour not in usual.values()] or [0]
    others = [name for name in classes if name not in usual]
    return {name: usual[name] if name in usual else free[others.index(name) % len(free)] for name in classes}


_USUAL_COLOURS = {
    "neutral": 0, "anger": 1, "happiness": 2, "sadness": 3, "worry": 4, "surprise": 5, "fear": 6, "disgust": 7,
    "positive": 2, "negative": 3,
}  # fmt: skip


def percent(value: float | None) -> str:
    """A share as a percentage, a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference in percentage points, with its sign."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def seconds(value: float) -> str:
    """A duration in the unit a person would use.

    >>> seconds(0.25), seconds(75), seconds(7320)
    ('0.2 s', '1 min 15 s', '2 h 2 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _sha256(script: str) -> str:
    """What a content security policy names an inline script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
