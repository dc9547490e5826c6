"""Linear discriminant analysis by expectation maximisation: few labels, and a pool that shows where the classes lie.

One Gaussian per class with one covariance for all, shrunk towards its diagonal in correlation form. Labelled clips keep
their label; a clip of the pool counts for little, spread over the classes by its posterior (Nigam et al. 2000).

The clip's posteriors sum to 1, so what it adds to the second moments does not change between the steps: only the means
do. The moments are therefore summed once, block by block, for all folds; a fold's are the whole less what it lacks,
a learner's those of its features, and a further step reads the pool once, for all folds and learners.

A covariance is of the clips that have both features of a pair, about the means of these clips, and a mean of those that
have the feature. Where that makes no covariance (or the clips are too few), it is shrunk further until it is one.

Shapes: V views (a fold of a learner), F folds, B clips, M features, P features of a pattern, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mer_ray import progress
from mer_ray.classifiers import base
from mer_ray.data.features import FeatureSet
from mer_ray.errors import LearnerError

_LEAST_VARIANCE = 1e-6
_TINY = 1e-12
_TRIES = 40
_SMOOTH = 1.0
"""Clips added to each class in the shares that are expected of them."""
_TILE = 1024
_SOLVED_AHEAD = 4
"""With more features than these the correlations are kept, and a pattern is solved when it is met."""


class Config(base.Config):
    """See ``base.Config``."""

    shrink: float = Field(0.4, ge=0, le=1, description="share of the diagonal in the correlations")
    steps: int = Field(4, ge=0, description="of expectation maximisation over the pool; 0: the labelled clips alone")
    pool_weight: float = Field(0.2, ge=0, le=1, description="what a clip of the pool counts beside a labelled one")


class Classifier(base.Classifier):
    """Discriminant analysis by EM; see the module."""

    config: Config
    reads_pool = True

    def fit(self, features: FeatureSet, folds: Sequence[base.Rows], seed: int) -> None:
        """See ``base.Classifier``."""
        _fit([self], [tuple(range(len(features.features)))], features, folds, seed)

    @classmethod
    def fit_together(
        cls,
        models: Sequence[base.Classifier],
        places: Sequence[base.Pattern],
        features: FeatureSet,
        folds: Sequence[base.Rows],
        seeds: Sequence[int],
    ) -> None:
        """See ``base.Classifier``; of features that are too wide each has a projection of its own."""
        width = sum(feature.values.shape[1] for feature in features.features)
        if len(models) == 1 or width > models[0].config.max_width:
            super().fit_together(models, places, features, folds, seeds)
        else:
            _fit([model for model in models if isinstance(model, cls)], places, features, folds, seeds[0])

    def scores(self, pattern: base.Pattern) -> base.Map:
        """See ``base.Classifier``."""
        if pattern not in self.solved:
            self.solved[pattern] = _stack(gaussians.of(pattern) for gaussians in self.gaussians)
        return self.solved[pattern]

    def begin(self, inputs: Sequence[base.Inputs]) -> None:
        """Forget all; what enters is known."""
        self.inputs = list(inputs)
        self.gaussians: list[Gaussians] = []
        self.solved: dict[base.Pattern, base.Map] = {}

    def learn(self, moments: Moments, own: base.Pattern, views: Sequence[View]) -> None:
        """Take what was summed up for its folds, ``own`` being the places of its features there."""
        self.begin([moments.inputs[m] for m in own])
        if len(own) > _SOLVED_AHEAD:
            for view in views:
                found = moments.gaussians(view, own, self.config.shrink)
                self.gaussians.append(replace(found, correlation=found.correlation.clone()))
            return
        for pattern in _every_pattern(len(own)):
            places = tuple(own[m] for m in pattern)
            self.solved[pattern] = _stack(moments.solve(view, places, self.config.shrink) for view in views)

    def state(self) -> dict[str, Tensor]:
        """See ``base.Classifier``."""
        if self.gaussians:
            packed = [gaussians.pack() for gaussians in self.gaussians]
            return {f"{f}.{name}": tensor for f, one in enumerate(packed) for name, tensor in one.items()}
        found: dict[str, Tensor] = {}
        for pattern, (weight, constant) in self.solved.items():
            name = "-".join(map(str, pattern))
            found |= {f"{name}.weight": weight, f"{name}.constant": constant}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See ``base.Classifier``."""
        self.begin(self.inputs)
        widths = tuple(one.width for one in self.inputs)
        if len(widths) > _SOLVED_AHEAD:
            self.gaussians = [Gaussians.unpack(widths, state, f"{f}.") for f in range(self.config.num_folds)]
            return
        for pattern in _every_pattern(len(widths)):
            name = "-".join(map(str, pattern))
            self.solved[pattern] = state[f"{name}.weight"], state[f"{name}.constant"]


@dataclass(frozen=True)
class Gaussians:
    """The classes of one fold by some features.

    Attributes:
        widths: of the features.
        correlation: float32 (D, D), shrunk; its upper triangle alone is read.
        deviation: float32 (D,).
        mean: float32 (C, D).
        log_prior: float32 (C,), -inf of a class that the fold lacks.
    """

    widths: tuple[int, ...]
    correlation: Tensor
    deviation: Tensor
    mean: Tensor
    log_prior: Tensor

    def of(self, pattern: base.Pattern) -> base.Map:
        """Weights (D of the pattern, C) and constants (C,) of clips that have these of the features."""
        columns = _columns(self.widths, pattern).to(self.deviation.device)

        def some(left: float) -> Gaussians:
            correlation = self.correlation[columns][:, columns] * left
            correlation.diagonal().add_(1 - left)
            widths = tuple(self.widths[m] for m in pattern)
            return Gaussians(widths, correlation, self.deviation[columns], self.mean[:, columns], self.log_prior)

        return _solve(some)

    def solve(self) -> base.Map | None:
        """Weights and constants, in the place of the correlations; None where these are none."""
        factor, info = self.correlation.mT, torch.zeros((), dtype=torch.int32, device=self.correlation.device)
        torch.linalg.cholesky_ex(factor, out=(factor, info))
        if info:
            return None
        deviation_D1 = self.deviation.unsqueeze(1)
        half_DC = torch.linalg.solve_triangular(factor, self.mean.T / deviation_D1, upper=False)
        weight_DC = torch.linalg.solve_triangular(factor.mT, half_DC, upper=True) / deviation_D1
        return weight_DC, self.log_prior - 0.5 * half_DC.square().sum(dim=0)

    def pack(self) -> dict[str, Tensor]:
        """As named tensors, of the correlations the upper triangle."""
        rows, columns = torch.triu_indices(*self.correlation.shape, device=self.correlation.device)
        triangle = self.correlation[rows, columns]
        return {"correlation": triangle, "deviation": self.deviation, "mean": self.mean, "log_prior": self.log_prior}

    @classmethod
    def unpack(cls, widths: tuple[int, ...], state: Mapping[str, Tensor], prefix: str) -> Gaussians:
        """From ``pack``, each name behind ``prefix``.

        Raises:
            KeyError, RuntimeError: it is not whole.
        """
        correlation, deviation, mean, log_prior = (
            state[prefix + name] for name in ("correlation", "deviation", "mean", "log_prior")
        )
        whole = torch.zeros(sum(widths), sum(widths), device=deviation.device)
        rows, columns = torch.triu_indices(*whole.shape, device=whole.device)
        whole[rows, columns] = correlation
        return cls(widths, whole, deviation, mean, log_prior)


@dataclass
class View:
    """One fold of a learner, and the first moments of its clips by class, float64.

    Attributes:
        own: places of the learner's features.
        fold: which one.
        clips: (M, M, C), weight of the clips that have both features.
        total: (M, C, D), sums of all columns over the clips that have the feature too.
        seen: (C,), weight of the clips that have any feature of the learner.
        labelled: bool (C,), classes of which the fold has a labelled clip.
    """

    own: base.Pattern
    fold: int
    clips: Tensor
    total: Tensor
    seen: Tensor
    labelled: Tensor

    @classmethod
    def empty(cls, own: base.Pattern, fold: int, num_features: int, width: int, num_classes: int) -> View:
        """Of no clip."""
        shapes = (num_features, num_features, num_classes), (num_features, num_classes, width), (num_classes,)
        clips, total, seen = (torch.zeros(shape, dtype=torch.float64, device=base.device()) for shape in shapes)
        return cls(own, fold, clips, total, seen, seen > 0)

    def copy(self) -> View:
        """The same, to add to."""
        return replace(self, clips=self.clips.clone(), total=self.total.clone(), seen=self.seen.clone())

    def shown(self, pattern: base.Pattern) -> base.Pattern:
        """What the learner sees of clips of a pattern."""
        return tuple(m for m in pattern if m in self.own)

    def add(self, pattern: base.Pattern, columns: Tensor, weight_C: Tensor, total_CD: Tensor) -> None:
        """Add clips of one pattern: their weight by class, and the sums of their ``columns``."""
        for m in pattern:
            self.total[m].index_add_(1, columns, total_CD)
            self.clips[m, list(pattern)] += weight_C
        self.seen += weight_C

    def mean(self, tile: Tile) -> Tensor:
        """Of each class, (C, d); of a class that has nothing of the feature the mean of all clips."""
        clips_C1, total_Cd = self.clips[tile.feature, tile.feature].unsqueeze(1), self.total[tile.feature][:, tile.at]
        all_d = total_Cd.sum(dim=0) / clips_C1.sum().clamp(min=_TINY)
        return torch.where(clips_C1 > 0, total_Cd / clips_C1.clamp(min=_TINY), all_d)

    def within(self, square: Tensor, a: Tile, b: Tile) -> Tensor:
        """Covariance within the classes, float32 (d of a, d of b), from the summed products of the columns."""
        clips_C = self.clips[a.feature, b.feature]
        means_C = self.total[b.feature][:, a.at] / clips_C.clamp(min=_TINY).unsqueeze(1)
        between = means_C.T @ self.total[a.feature][:, b.at]
        return (square - between.float()) / clips_C.sum().clamp(min=_TINY).float()

    def log_prior(self) -> Tensor:
        """Of each class, float32 (C,), -inf without a labelled clip."""
        share_C = (self.seen + _SMOOTH) / (self.seen + _SMOOTH).sum()
        return share_C.log().masked_fill(~self.labelled, -torch.inf).float()


class Tile(NamedTuple):
    """Some columns of one feature: where they stand among those of all features, and among those of a pattern."""

    feature: int
    at: slice
    to: slice


class Moments:
    """Second moments of weighted clips, summed once for all folds: upper triangles, float32 (D, D), see ``_triangles``.

    ``whole`` is of each clip by the weight that most folds give it, ``lacking`` by what a fold's weight is less; a
    fold's correlations are put together in ``space``, one after the other.

    Args:
        features: what is read.
        inputs: how each enters.
        num_folds: F.
    """

    def __init__(self, features: FeatureSet, inputs: Sequence[base.Inputs], num_folds: int) -> None:
        self.features, self.inputs, self.num_folds = features, inputs, num_folds
        self.widths = tuple(one.width for one in inputs)
        width = sum(self.widths)
        self.empty = _triangles(width)
        self.whole = next(self.empty)
        self.lacking: dict[int, Tensor] = {}
        self.space = torch.empty(width**2, device=base.device())

    def add(self, rows: NDArray[np.int64], weight_FN: NDArray[np.float32]) -> None:
        """Add clips, each by its weight in every fold: multiplied once, and once more for each fold that differs."""
        usual_N = np.sort(weight_FN, axis=0)[self.num_folds // 2]
        self._add(self.whole, rows, usual_N)
        for fold, less_N in enumerate(usual_N - weight_FN):
            if len(touched := np.flatnonzero(less_N)):
                if fold not in self.lacking:
                    self.lacking[fold] = next(self.empty)
                self._add(self.lacking[fold], rows[touched], less_N[touched])

    def blocks(self, rows: NDArray[np.int64]) -> Iterator[tuple[base.Pattern, NDArray[np.int64], Tensor]]:
        """Clips of one pattern: the pattern, places among ``rows`` (B,), and their features side by side (B, D)."""
        for pattern, places in base.by_pattern(self.features.present[rows], np.arange(len(rows))):
            for place in base.blocks(places):
                parts = [self.inputs[m].take(self.features.features[m], rows[place]) for m in pattern]
                yield pattern, place, torch.cat(parts, dim=1)

    def _add(self, matrix: Tensor, rows: NDArray[np.int64], weight_N: NDArray[np.float32]) -> None:
        for pattern, place, x_BD in self.blocks(rows):
            add_products(matrix, x_BD, weight_N[place], _tiles(self.widths, pattern))

    def gaussians(self, view: View, pattern: base.Pattern, shrink: float) -> Gaussians:
        """The classes of a view by the features of a pattern; the correlations lie in ``space``."""
        tiles, lacking = _tiles(self.widths, pattern), self.lacking.get(view.fold)
        square_D = self.whole.diagonal() - (0.0 if lacking is None else lacking.diagonal())
        deviation_D = torch.cat([_deviation(view, square_D, tile) for tile in tiles])
        found_DD = self.space[: len(deviation_D) ** 2].view(len(deviation_D), -1)
        for number, a in enumerate(tiles):
            for b in tiles[number:]:
                square = _products(self.whole, a, b)
                within = view.within(square if lacking is None else square - _products(lacking, a, b), a, b)
                found_DD[a.to, b.to] = within / deviation_D[a.to].unsqueeze(1) / deviation_D[b.to] * (1 - shrink)
        found_DD.diagonal().add_(shrink)
        mean_CD = torch.cat([view.mean(tile) for tile in tiles], dim=1).float()
        return Gaussians(tuple(self.widths[m] for m in pattern), found_DD, deviation_D, mean_CD, view.log_prior())

    def solve(self, view: View, pattern: base.Pattern, shrink: float) -> base.Map:
        """Weights (D of the pattern, C) and constants (C,) of a view's clips of a pattern."""
        return _solve(lambda left: self.gaussians(view, pattern, 1 - left * (1 - shrink)))


def _fit(
    classifiers: Sequence[Classifier],
    places: Sequence[base.Pattern],
    features: FeatureSet,
    folds: Sequence[base.Rows],
    seed: int,
) -> None:
    """Fit classifiers that learn from the same clips, each by some of the features: what is read is read for all.

    Args:
        classifiers: alike but for the features.
        places: of the features that each reads.
        features: see ``base.Classifier``; of several classifiers no wider than ``max_width`` together.
        folds: what each fold learns from.
        seed: of random projections.
    """
    config = classifiers[0].config
    everything = base.union(np.concatenate([fold.clip, fold.pool]) for fold in folds)
    inputs = base.learn_inputs(features, everything, config.max_width, seed)
    moments = Moments(features, inputs, len(folds))
    rows, counts_FNC = base.counts(folds, config.num_classes)
    moments.add(rows, counts_FNC.sum(axis=2))
    size = len(inputs), sum(moments.widths), config.num_classes
    views = [View.empty(own, fold, *size) for own in places for fold in range(len(folds))]
    counts = torch.from_numpy(counts_FNC).to(moments.whole.device)
    for pattern, place, x_BD in moments.blocks(rows):
        _add(views, pattern, [counts[view.fold, torch.from_numpy(place)] for view in views], x_BD, moments.widths)
    views = [replace(view, labelled=view.seen > 0) for view in views]
    views = _expect(views, moments, config, [fold.pool for fold in folds])
    for number, (one, own) in enumerate(zip(classifiers, places, strict=True)):
        one.learn(moments, own, views[number * len(folds) : (number + 1) * len(folds)])


def add_products(matrix: Tensor, x_BD: Tensor, weight_B: NDArray[np.float32], tiles: Sequence[Tile]) -> None:
    """Add the upper triangle of ``x.T @ diag(weight) @ x`` where its columns stand in ``matrix``."""
    weighted_BD = x_BD * torch.from_numpy(weight_B).to(x_BD.device).unsqueeze(1)
    for number, a in enumerate(tiles):
        for b in tiles[number:]:
            matrix[a.at, b.at].addmm_(weighted_BD[:, a.to].T, x_BD[:, b.to])


def _triangles(width: int) -> Iterator[Tensor]:
    """Matrices of zeros, float32 (D, D), for tiles on and above the diagonal alone: two lie in the memory of one.

    The second is the transpose of what lies below the first, which stands a tile to the right of it.
    """
    while True:
        both = torch.zeros(width, width + _TILE, device=base.device())
        yield both[:, _TILE:]
        yield both[:, :width].T


def _products(matrix: Tensor, a: Tile, b: Tile) -> Tensor:
    """Those of the columns of two tiles, (d of a, d of b): a learner may read features in any order."""
    return matrix[a.at, b.at] if a.at.start <= b.at.start else matrix[b.at, a.at].T


def _expect(first: list[View], moments: Moments, config: Config, pools: Sequence[NDArray[np.int64]]) -> list[View]:
    """The views with the pool's clips spread over the classes by their posteriors, which are found step by step."""
    pool = base.union(iter(pools))
    weight_FN = np.stack([np.isin(pool, one) for one in pools]).astype(np.float32) * np.float32(config.pool_weight)
    views = first
    for step in range(config.steps if weight_FN.any() else 0):
        progress.tell(step / config.steps, f"step {step + 1} of {config.steps}")
        patterns = [pattern for pattern, _ in base.by_pattern(moments.features.present, pool)]
        solved = [
            {shown: moments.solve(view, shown, config.shrink) for shown in {view.shown(one) for one in patterns} - {()}}
            for view in views
        ]
        if step == 0:
            moments.add(pool, weight_FN)
        views = [view.copy() for view in first]
        weights = torch.from_numpy(weight_FN).to(moments.whole.device)
        for pattern, place, x_BD in moments.blocks(pool):
            maps = [_spread(view, pattern, own, moments.widths) for view, own in zip(views, solved, strict=True)]
            scores_BVC = torch.einsum("bd,vdc->bvc", x_BD, torch.stack([weight for weight, _ in maps]))
            posterior_BVC = (scores_BVC + torch.stack([constant for _, constant in maps])).softmax(dim=2)
            at = torch.from_numpy(place)
            counts = [posterior_BVC[:, v] * weights[view.fold, at].unsqueeze(1) for v, view in enumerate(views)]
            _add(views, pattern, counts, x_BD, moments.widths)
    return views


def _add(
    views: Sequence[View], pattern: base.Pattern, counts: Sequence[Tensor], x_BD: Tensor, widths: Sequence[int]
) -> None:
    """Add clips of a pattern to views that see something of them, each clip by what it counts for each class (B, C)."""
    columns = _columns(widths, pattern).to(x_BD.device)
    total_VCD = torch.stack([count.float() for count in counts]).mT @ x_BD
    for view, count_BC, total_CD in zip(views, counts, total_VCD, strict=True):
        if view.shown(pattern):
            view.add(pattern, columns, count_BC.sum(dim=0, dtype=torch.float64), total_CD.double())


def _spread(
    view: View, pattern: base.Pattern, solved: Mapping[base.Pattern, base.Map], widths: Sequence[int]
) -> base.Map:
    """A view's map for clips of a pattern, with weights of 0 for the features that its learner does not read."""
    shown = view.shown(pattern)
    weight = torch.zeros(sum(widths[m] for m in pattern), len(view.seen), device=view.seen.device)
    if not shown:
        return weight, view.log_prior()
    starts = dict(zip(pattern, np.cumsum([0, *(widths[m] for m in pattern)]).tolist(), strict=False))
    parts = torch.split(solved[shown][0], [widths[m] for m in shown])
    for m, part in zip(shown, parts, strict=True):
        weight[starts[m] : starts[m] + widths[m]] = part
    return weight, solved[shown][1]


def _solve(gaussians: Callable[[float], Gaussians]) -> base.Map:
    """The map by correlations of which as much is left as makes them a covariance: all, a half, a quarter, ..."""
    for halvings in range(_TRIES):
        if (solved := gaussians(0.5**halvings).solve()) is not None:
            return solved
    raise LearnerError("the features of the training clips make no covariance: a value may be infinite")


def _deviation(view: View, square_D: Tensor, tile: Tile) -> Tensor:
    """Of columns within the classes, float32 (d,); ``square_D`` are the summed squares of all columns."""
    clips_C1, total_Cd = view.clips[tile.feature, tile.feature].unsqueeze(1), view.total[tile.feature][:, tile.at]
    within_d = square_D[tile.at].double() - (total_Cd.square() / clips_C1.clamp(min=_TINY)).sum(dim=0)
    return (within_d / clips_C1.sum().clamp(min=_TINY)).clamp(min=_LEAST_VARIANCE).sqrt().float()


def _stack(solved: Iterable[base.Map]) -> base.Map:
    """The maps of the folds as one."""
    weights, constants = zip(*solved, strict=True)
    return torch.stack(weights), torch.stack(constants)


def _every_pattern(num_features: int) -> Iterator[base.Pattern]:
    return chain.from_iterable(combinations(range(num_features), n) for n in range(1, num_features + 1))


def _columns(widths: Sequence[int], pattern: base.Pattern) -> Tensor:
    """Where the columns of the features of a pattern stand, int64 (D,)."""
    starts = np.cumsum([0, *widths]).tolist()
    return torch.cat([torch.arange(starts[m], starts[m + 1]) for m in pattern])


def _tiles(widths: Sequence[int], pattern: base.Pattern) -> list[Tile]:
    """The columns of a pattern, in pieces."""
    starts, found, start = np.cumsum([0, *widths]).tolist(), [], 0
    for m in pattern:
        for first in range(starts[m], starts[m + 1], _TILE):
            last = min(first + _TILE, starts[m + 1])
            found.append(Tile(m, slice(first, last), slice(start, start + last - first)))
            start += last - first
    return found
