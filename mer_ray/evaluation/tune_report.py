"""The page of a search: what was tried, what it came to, and which values the best trial has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mer_ray.evaluation import charts
from mer_ray.evaluation.charts import ACCENT, MUTED, Axis, Line, Trace
from mer_ray.evaluation.page import percent, render_page

_MOST_ROWS = 30
_STRONG = 3


@dataclass(frozen=True)
class Searchable:
    """One key that was searched: its ``choices``, or what lies from ``low`` to ``high``."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False


@dataclass(frozen=True)
class TriedTrial:
    """One trial.

    Attributes:
        number: in the order of the suggestions; 0 is the config as given.
        values: by key; keys that its strategy does not have are missing.
        rounds: out-of-fold WAF of what mining had come to after each round.
        state: ``done``, ``stopped`` or ``failed``.
        objective: the last of ``rounds``; None of a failed one.
        seconds: that it took.
        reason: why it failed.
        gain: what it gains on trial 0 out of fold, in WAF; None where the two are not compared.
        noise: standard error of the gain, paired over folds.
    """

    number: int
    values: Mapping[str, Any]
    rounds: tuple[float, ...]
    state: str
    objective: float | None
    seconds: float
    reason: str = ""
    gain: float | None = None
    noise: float | None = None


@dataclass(frozen=True)
class TuneReport:
    """Everything the page says; ``best`` is the number of a trial, ``config`` the path of its YAML."""

    title: str
    when: str
    seed: int
    config_digest: str
    versions: Mapping[str, str | None]
    keys: tuple[Searchable, ...]
    trials: tuple[TriedTrial, ...]
    best: int
    config: str
    num_labelled: int
    concurrent: int
    warnings: tuple[str, ...] = ()


def render(data: TuneReport) -> str:
    """The page as the text of one HTML file; it needs no network and runs no script."""
    ranked = rank(data.trials)
    best = next(trial for trial in data.trials if trial.number == data.best)
    return render_page(
        "tune.html.j2",
        data=data,
        best=best,
        keys=[one.key for one in data.keys],
        ranked=ranked[:_MOST_ROWS],
        parallel=_parallel(data, ranked),
        progress=_progress(data.trials),
        mining=best.rounds[-1] - best.rounds[0],
        states={state: sum(one.state == state for one in data.trials) for state in ("done", "stopped", "failed")},
        show=show,
    )


def rank(trials: Sequence[TriedTrial]) -> list[TriedTrial]:
    """Mined to their end and best first, then those stopped, then those that failed."""
    order = {"done": 0, "stopped": 1}
    return sorted(trials, key=lambda one: (order.get(one.state, 2), -(one.objective or 0.0), one.number))


def show(value: Any) -> str:  # noqa: ANN401 - what a key takes
    """A value as a person would write it.

    >>> show(0.00312345), show(True), show(64)
    ('0.00312', 'true', '64')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parallel(data: TuneReport, ranked: Sequence[TriedTrial]) -> Markup:
    shown = [trial for trial in ranked if trial.objective is not None]
    first = [trial.number for trial in shown if trial.state == "done"][:_STRONG]
    traces = [
        Trace(
            f"trial {trial.number}, {trial.state}: {percent(trial.objective)}",
            ACCENT if trial.number == data.best else 2 if trial.number in first else MUTED,
            strong=trial.number in (data.best, *first),
        )
        for trial in shown
    ]
    scores = [trial.objective for trial in shown if trial.objective is not None]
    ticks = charts.nice_ticks(min(scores), max(scores))
    span = Searchable("out-of-fold WAF", low=ticks[0], high=ticks[-1])
    axes = [_axis(key, [trial.values.get(key.key) for trial in shown]) for key in data.keys]
    goal = Axis(span.key, [_place(span, score) for score in scores], [(0, percent(span.low)), (1, percent(span.high))])
    return charts.parallel_coordinates("Every trial through all that was searched", [*axes, goal], traces)


def _axis(key: Searchable, values: Sequence[Any]) -> Axis:
    ends = key.choices or (key.low, key.high)
    ticks = [(_place(key, end), show(end)) for end in ends]
    places = [_place(key, value) if _lies(key, value) else None for value in values]
    return Axis(key.key, places, ticks)


def _lies(key: Searchable, value: Any) -> bool:  # noqa: ANN401 - what a key takes
    """Whether a value is on its axis: a trial may lack the key, and the config as given may lie outside."""
    if key.choices:
        return value in key.choices
    return value is not None and key.low <= value <= key.high


def _place(key: Searchable, value: Any) -> float:  # noqa: ANN401 - what a key takes
    """Where a value lies on its axis, from 0 to 1."""
    if key.choices:
        return key.choices.index(value) / max(len(key.choices) - 1, 1)
    scale = math.log if key.log else float
    return (scale(value) - scale(key.low)) / (scale(key.high) - scale(key.low))


def _progress(trials: Sequence[TriedTrial]) -> Markup:
    """The best objective of the trials mined to their end, as the search went on."""
    best: list[float | None] = []
    for trial in trials:
        earlier = best[-1] if best else None
        own = trial.objective if trial.state == "done" else None
        best.append(max((one for one in (earlier, own) if one is not None), default=None))
    lines = [Line("best so far", best), Line("trial", [trial.objective for trial in trials], MUTED, dashed=True)]
    hollow = [trial.state != "done" for trial in trials]
    return charts.line_chart("Out-of-fold WAF by trial, per cent", [str(one.number) for one in trials], lines, hollow)
