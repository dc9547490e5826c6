"""Whether raters who are not equally good are pooled well: human votes on acted emotions (CREMA-D, ODbL).

Three raters judge each clip: those who heard the voice, those who saw the face, those who had both. A rater's vote is
the shares of the classes among them, half a person added to each. On a few clips, drawn stratified by class, the
intended emotion is given; from these come the raters' weights and, as a round of mining does it, the class shares that
their votes are aligned to. In mining itself learners count alike. All other clips are scored, and their labels are read
for nothing else.

JSON: accuracies over the scored clips, means over the draws: ``plurality`` of all people; ``best_view``, the best
rater alone, and all under ``views``; ``mean`` of the raters; ``weights_alone``, their weighted mean; ``weighted``, the
same of aligned votes, with ``weighted_std``; ``weighted_cv``, of the labelled clips, each fold by what the others tell;
``rater_weights``; ``num_clips``, ``num_labelled``, ``num_scored``, ``num_draws``.

Shapes: K raters, N clips, C classes.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from sklearn.model_selection import train_test_split

from mer_ray.benchmarks.harness import table
from mer_ray.config import Section
from mer_ray.errors import ConfigError, FeatureFileError
from mer_ray.learners import folds as folding
from mer_ray.mining import base
from mer_ray.rounds import votes

FILE = "cremad_votes.npz"
_ADDED = 0.5
_FOLDS = 5
_STEPS = 200
_ADDED_CLIPS = 5.0


class Config(Section):
    """Where the votes are, and how many clips tell what they are worth."""

    data: str = Field(description=f"folder that holds {FILE}, see docs/benchmarks.md")
    labelled: int = Field(400, ge=2, description="clips whose intended emotion is given")
    draws: int = Field(10, ge=1, description="how often these are drawn")


@dataclass(frozen=True)
class Rated:
    """Clips and what people said of them.

    Attributes:
        counts_KNC: people of each rater who named each class.
        truth: int64 (N,), the emotion that was acted.
        names: of the raters.
    """

    counts_KNC: NDArray[np.float64]
    truth: NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def votes_KNC(self) -> NDArray[np.float64]:
        """Each rater's shares of the classes."""
        counts = self.counts_KNC + _ADDED
        shares: NDArray[np.float64] = counts / counts.sum(axis=2, keepdims=True)
        return shares


def run(settings: Config, console: Console) -> dict[str, Any]:
    """Score every way of pooling, and print them.

    Raises:
        ConfigError: as many clips are to be labelled as there are, or fewer than classes.
        FeatureFileError: the file is missing or damaged.
    """
    rated = read(settings.data)
    num_clips, num_classes = len(rated.truth), rated.counts_KNC.shape[2]
    if not num_classes <= settings.labelled <= num_clips - num_classes:
        raise ConfigError(f"labelled={settings.labelled}: give {num_classes} to {num_clips - num_classes} clips")
    draws = [draw(rated, settings.labelled, seed) for seed in range(settings.draws)]
    figures = {name: float(np.mean([one[name] for one in draws])) for name in draws[0]}
    views = {name: figures.pop(f"view {name}") for name in rated.names}
    weights = {name: figures.pop(f"weight {name}") for name in rated.names}
    figures |= {"best_view": max(views.values()), "weighted_std": float(np.std([one["weighted"] for one in draws]))}
    shown = ("plurality", "mean", "best_view", "weights_alone", "weighted", "weighted_cv")
    table(console, f"{num_clips:,} clips", ["pooled by", "accuracy"], [[name, figures[name]] for name in shown])
    sizes = {"num_labelled": settings.labelled, "num_scored": num_clips - settings.labelled}
    return {
        **figures,
        "views": views,
        "rater_weights": weights,
        "num_clips": num_clips,
        **sizes,
        "num_draws": settings.draws,
    }


def read(folder: str) -> Rated:
    """The votes: arrays ``votes`` (N, K, C), ``intended`` (N,) and ``modes`` (K,), the raters' names.

    Raises:
        FeatureFileError: the file is missing or damaged.
    """
    path = Path(folder) / FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            counts_NKC, truth, names = arrays["votes"], arrays["intended"], arrays["modes"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FeatureFileError(f"{path} cannot be read: {error}; see docs/benchmarks.md for what it holds") from error
    return Rated(
        counts_NKC.transpose(1, 0, 2).astype(np.float64), truth.astype(np.int64), tuple(str(name) for name in names)
    )


def draw(rated: Rated, num_labelled: int, seed: int) -> dict[str, float]:
    """The figures of one draw of labelled clips."""
    rows = np.arange(len(rated.truth))
    labelled, scored = train_test_split(rows, train_size=num_labelled, stratify=rated.truth, random_state=seed)
    votes_KNC, truth = rated.votes_KNC, rated.truth
    held_out = folding.make(truth[labelled], [None] * num_labelled, _FOLDS, seed).held_out
    num_folds = int(held_out.max()) + 1
    weights_GK = weigh(votes_KNC[:, labelled], truth[labelled], held_out, num_folds)
    classes = [str(c) for c in range(votes_KNC.shape[2])]
    priors_FC = votes.priors("labelled", truth[labelled], held_out, classes, num_folds)
    whole_C = np.bincount(truth[labelled], minlength=len(classes)) / num_labelled

    def accuracy(pooled_NC: NDArray[np.floating], clips: NDArray[np.int64]) -> float:
        return float((pooled_NC.argmax(axis=1) == truth[clips]).mean())

    def pool(clips: NDArray[np.int64], prior_C: NDArray[np.float64], weights_K: NDArray[np.float64]) -> Any:  # noqa: ANN401
        everything = np.ones(len(rows), dtype=bool)
        aligned_KNC = votes.align_pool(votes_KNC[:, None], everything[None], prior_C[None])[:, 0]
        return np.average(aligned_KNC[:, clips], axis=0, weights=weights_K)

    right = [
        accuracy(pool(labelled[held_out == f], priors_FC[f], weights_GK[f]), labelled[held_out == f])
        for f in range(num_folds)
    ]
    return {
        "plurality": accuracy(rated.counts_KNC.sum(axis=0)[scored], scored),
        "mean": accuracy(base.mean(votes_KNC[:, scored]), scored),
        "weights_alone": accuracy(np.average(votes_KNC[:, scored], axis=0, weights=weights_GK[-1]), scored),
        "weighted": accuracy(pool(scored, whole_C, weights_GK[-1]), scored),
        "weighted_cv": float(np.average(right, weights=np.bincount(held_out))),
        **{f"view {name}": accuracy(votes_KNC[k, scored], scored) for k, name in enumerate(rated.names)},
        **{f"weight {name}": float(weights_GK[-1, k]) for k, name in enumerate(rated.names)},
    }


def weigh(
    oof_KnC: NDArray[np.floating], labels_n: NDArray[np.int64], held_out_n: NDArray[np.int64], num_folds: int
) -> NDArray[np.float64]:
    """How much each rater counts, float64 (F + 1, K), rows summing to 1.

    Row f is learnt from the clips that the other folds hold out, the last row from all: it is for clips that no fold
    holds out.

    Args:
        oof_KnC: of the labelled clips, by models that did not see them.
        labels_n: their classes.
        held_out_n: the fold that holds each out.
        num_folds: F.
    """
    parts = [held_out_n != fold for fold in range(num_folds + 1)]
    return np.stack([mixture(oof_KnC[:, rows], labels_n[rows]) for rows in parts])


def mixture(votes_KnC: NDArray[np.floating], labels_n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights (K,) of the weighted mean of votes under which the true classes are likeliest (Smyth and Wolpert 1999).

    Found by expectation maximisation, with 5 clips per rater added that favour none. A rater that only repeats what
    others say gets little, whatever its own score.
    """
    num_raters = len(votes_KnC)
    right_Kn = votes_KnC[:, np.arange(len(labels_n)), labels_n].astype(np.float64)
    weights_K = np.full(num_raters, 1 / num_raters)
    for _ in range(_STEPS):
        joint_Kn = weights_K[:, None] * right_Kn
        counts_K = (joint_Kn / joint_Kn.sum(axis=0)).sum(axis=1) + _ADDED_CLIPS
        weights_K = counts_K / counts_K.sum()
    return weights_K
