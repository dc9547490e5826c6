"""Multimodal data as ready vectors: real sets, each of one ``.npz`` file that the user has, and sets that are made.

Those that are made: ``digits``, which scikit-learn carries; ``skewed``, whose commonest class is ten times as common as
its rarest; and ``misleading``, most of whose pool is of no class and looks like
one. See docs/benchmarks.md.

Shapes: N clips, D width of a feature.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mer_ray.config import Section
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import FeatureFileError
from mer_ray.learners.experiment import Experiment
from mer_ray.types import Split


class Form(Section):
    """What stands where in a file."""

    file: str = Field(description="its path, or its name in the folder of the sets", min_length=1)
    modalities: dict[str, str] = Field(description="modality of each array of vectors, by its name", min_length=1)
    label: str = Field("label", description="array of classes, numbers or names")
    speaker: str | None = Field(None, description="array of speakers; unset: nobody is known to speak")
    split: str = Field("split", description="array of train, test and maybe others, which are left out")


_TEST_SHARE = 1 / 3
_NUM_CLIPS, _WIDTH, _NOISE = 1800, 24, 3.0
_PLANTED = {"voice": "audio", "face": "video"}

FORMS = {
    "ravdess": Form(
        file="ravdess_au_mfcc.npz", modalities={"video_au": "video", "audio_mfcc": "audio"}, speaker="actor"
    ),
    "handwritten": Form(file="mv_handwritten.npz", modalities={f"view{i}": f"view{i}" for i in range(6)}),
    "nemo": Form(file="nemo_audiofeat.npz", modalities={"audio": "audio"}, label="emotion", speaker="speaker"),
}


@dataclass(frozen=True)
class RealSet:
    """A set with every label known.

    Attributes:
        name: what it is called.
        features: float32, of all clips.
        truth: int64 (N,), classes.
        class_names: in order.
        speakers: of each clip, None where unknown.
        test: bool (N,), the clips that are scored.
        never: bool (N,), training clips that are of the pool in every draw; None: none is.
    """

    name: str
    features: FeatureSet
    truth: NDArray[np.int64]
    class_names: tuple[str, ...]
    speakers: tuple[str | None, ...]
    test: NDArray[np.bool_]
    never: NDArray[np.bool_] | None = None

    def take(self, rows: NDArray[np.int64]) -> RealSet:
        """The clips at ``rows``, in that order."""
        return replace(
            self,
            features=self.features.take(rows),
            truth=self.truth[rows],
            speakers=tuple(self.speakers[row] for row in rows),
            test=self.test[rows],
            never=None if self.never is None else self.never[rows],
        )

    def experiment(self, fraction: float, seed: int, per_class: int | None = None) -> Experiment:
        """The set with a share of its training labels, drawn by ``seed`` and stratified by class; the rest is the pool.

        Args:
            fraction: share of the training clips that stay labelled; 1: all of them, and no pool.
            seed: of the draw, and the experiment's.
            per_class: instead of a share, clips of each class that stay labelled.
        """
        train = np.flatnonzero(~self.test if self.never is None else ~self.test & ~self.never)
        labelled = train
        if per_class is not None:
            rng = np.random.default_rng(seed)
            by_class = (train[self.truth[train] == c] for c in range(len(self.class_names)))
            labelled = np.concatenate([rng.permutation(rows)[:per_class] for rows in by_class])
        elif fraction < 1:
            labelled, _ = train_test_split(train, train_size=fraction, stratify=self.truth[train], random_state=seed)
        labels = np.full(len(self.truth), -1, dtype=np.int64)
        labels[labelled] = self.truth[labelled]
        pool = ~self.test & (labels < 0)
        splits = np.select([self.test, pool], [Split.TEST, Split.UNLABELED], Split.TRAIN)
        return Experiment(
            features=self.features,
            labels=labels,
            splits=tuple(Split(str(split)) for split in splits),
            speakers=self.speakers,
            class_names=self.class_names,
            pool=pool,
            features_digest=self.name,
            seed=seed,
        )


def read(folder: str | Path, name: str, form: Form | None = None) -> RealSet:
    """Read a set of ``FORMS``, or make one of ``MADE``; a set of the user's own by its ``form``.

    Raises:
        FeatureFileError: its file is not in the folder, is damaged, or lacks an array.
    """
    if form is None and name in MADE:
        return MADE[name]()
    form = form or FORMS[name]
    path = Path(folder) / form.file
    try:
        with np.load(path, allow_pickle=False) as arrays:
            split = arrays[form.split].astype(str)
            rows = np.flatnonzero((split == "train") | (split == "test"))
            names, truth = np.unique(arrays[form.label][rows], return_inverse=True)
            speakers = [None] * len(rows) if form.speaker is None else arrays[form.speaker][rows].astype(str).tolist()
            present = np.ones(len(rows), dtype=bool)
            features = tuple(
                Feature(feature, modality, arrays[feature][rows].astype(np.float32), present)
                for feature, modality in form.modalities.items()
            )
    except FileNotFoundError as error:
        raise FeatureFileError(f"{path} is not there; give the folder that holds it as data=DIR") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FeatureFileError(f"{path} is not the file of the set {name} ({error}); fetch it again") from error
    return RealSet(
        name=name,
        features=FeatureSet(tuple(f"{name}{row}" for row in rows), features),
        truth=truth.astype(np.int64),
        class_names=tuple(str(one) for one in names),
        speakers=tuple(speakers),
        test=split[rows] == "test",
    )


def _digits() -> RealSet:
    """Handwritten digits of 8 x 8 pixels, a drawn third of them to test by."""
    pixels, truth = load_digits(return_X_y=True)
    test = np.random.default_rng(0).random(len(truth)) < _TEST_SHARE
    return _made("digits", {"pixels": ("video", pixels)}, truth, test)


def _skewed() -> RealSet:
    """Five classes, the first ten times as common as the last, everywhere; two features tell them a little."""
    rng = np.random.default_rng(1)
    shares = np.geomspace(10.0, 1.0, 5)
    truth = rng.choice(5, size=_NUM_CLIPS, p=shares / shares.sum())
    features = {name: (modality, _shown(np.eye(5)[truth], rng)) for name, modality in _PLANTED.items()}
    return _made("skewed", features, truth, rng.random(_NUM_CLIPS) < _TEST_SHARE)


def _misleading() -> RealSet:
    """Four classes; of the training clips three quarters are never labelled, of no class, and look like the first."""
    rng = np.random.default_rng(2)
    truth = rng.integers(4, size=_NUM_CLIPS)
    test = rng.random(_NUM_CLIPS) < _TEST_SHARE
    never = ~test & (rng.random(_NUM_CLIPS) < 3 / 4)
    strange = np.eye(4)[0] - 2 * np.eye(4)[1 + rng.integers(3, size=_NUM_CLIPS)]
    centres = np.where(never[:, None], strange, np.eye(4)[truth])
    features = {name: (modality, _shown(centres, rng)) for name, modality in _PLANTED.items()}
    return replace(_made("misleading", features, truth, test), never=never)


def _shown(given_NC: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """What a feature shows of the classes: a random map of them, and noise."""
    seen_ND = given_NC @ rng.normal(size=(given_NC.shape[1], _WIDTH))
    return seen_ND + rng.normal(scale=_NOISE, size=seen_ND.shape)


def _made(
    name: str,
    features: Mapping[str, tuple[str, NDArray[np.float64]]],
    truth: NDArray[np.int64],
    test: NDArray[np.bool_],
) -> RealSet:
    there = np.ones(len(truth), dtype=bool)
    return RealSet(
        name=name,
        features=FeatureSet(
            tuple(f"{name}{row}" for row in range(len(truth))),
            tuple(Feature(one, kind, values.astype(np.float32), there) for one, (kind, values) in features.items()),
        ),
        truth=truth.astype(np.int64),
        class_names=tuple(str(c) for c in np.unique(truth)),
        speakers=(None,) * len(truth),
        test=test,
    )


MADE: dict[str, Callable[[], RealSet]] = {"digits": _digits, "skewed": _skewed, "misleading": _misleading}
