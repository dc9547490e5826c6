"""The page of a layer probe: which hidden layer of a model knows most about the emotion (P2, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mer_ray.evaluation import charts
from mer_ray.evaluation.page import render_page


@dataclass(frozen=True)
class Layer:
    """One layer: mean WAF over the folds, its standard deviation, the folds' own, and that of all clips together."""

    layer: int
    mean: float
    spread: float
    folds: tuple[float, ...]
    oof: float


@dataclass(frozen=True)
class ProbedModel:
    """One model.

    Attributes:
        name: the encoder's name in the config.
        weights: what its weights are.
        num_clips, num_folds: labelled clips that have a vector, and the folds they were cut into.
        grouped: whether no speaker stands on both sides of a fold.
        layers: in the order of the model, at least one.
        best: the layer of the highest mean.
        as_good: layers that the folds do not tell from it.
        warnings: what could not be had, in words.
    """

    name: str
    weights: str
    num_clips: int
    num_folds: int
    grouped: bool
    layers: tuple[Layer, ...]
    best: int
    as_good: tuple[int, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeReport:
    """Everything the page says; ``classes`` counts the labelled clips."""

    title: str
    when: str
    seed: int
    config_digest: str
    versions: Mapping[str, str]
    classes: Mapping[str, int]
    models: tuple[ProbedModel, ...]
    warnings: tuple[str, ...] = ()


def render(data: ProbeReport) -> str:
    """The page as the text of one HTML file; it needs no network and runs no script."""
    shown: list[dict[str, Any]] = [
        {
            "model": model,
            "chart": charts.spread_chart(
                f"Weighted F1 by layer of {model.name}, per cent",
                [str(layer.layer) for layer in model.layers],
                [layer.mean for layer in model.layers],
                [layer.spread for layer in model.layers],
            ),
            "best": next(layer for layer in model.layers if layer.layer == model.best),
        }
        for model in data.models
    ]
    warnings = dict.fromkeys([*data.warnings, *(warning for model in data.models for warning in model.warnings)])
    return render_page("probe.html.j2", data=data, shown=shown, warnings=list(warnings))
