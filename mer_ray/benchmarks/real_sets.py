"""Real multimodal data as ready vectors, each read from one ``.npz`` file that the user has; see docs/benchmarks.md.

Shapes: N clips, D width of a feature.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import FeatureFileError
from mer_ray.learners.experiment import Experiment
from mer_ray.types import Split


@dataclass(frozen=True)
class Form:
    """What stands where in a file.

    Attributes:
        file: its name.
        modalities: modality of each array of vectors, by its name.
        label: array of classes, numbers or names.
        speaker: array of speakers, None where nobody speaks.
        split: array of ``train``, ``test`` and maybe others; what is neither is left out.
    """

    file: str
    modalities: Mapping[str, str]
    label: str = "label"
    speaker: str | None = None
    split: str = "split"


FORMS = {
    "ravdess": Form("ravdess_au_mfcc.npz", {"video_au": "video", "audio_mfcc": "audio"}, speaker="actor"),
    "handwritten": Form("mv_handwritten.npz", {f"view{i}": f"view{i}" for i in range(6)}),
    "nemo": Form("nemo_audiofeat.npz", {"audio": "audio"}, label="emotion", speaker="speaker"),
}


@dataclass(frozen=True)
class RealSet:
    """A set with every label known.

    Attributes:
        name: of ``FORMS``.
        features: float32, of all clips.
        truth: int64 (N,), classes.
        class_names: in order.
        speakers: of each clip, None where unknown.
        test: bool (N,), the clips that are scored.
    """

    name: str
    features: FeatureSet
    truth: NDArray[np.int64]
    class_names: tuple[str, ...]
    speakers: tuple[str | None, ...]
    test: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> RealSet:
        """The clips at ``rows``, in that order."""
        return replace(
            self,
            features=self.features.take(rows),
            truth=self.truth[rows],
            speakers=tuple(self.speakers[row] for row in rows),
            test=self.test[rows],
        )

    def experiment(self, fraction: float, seed: int) -> Experiment:
        """The set with a share of its training labels, drawn by ``seed`` and stratified by class; the rest is the pool.

        Args:
            fraction: share of the training clips that stay labelled; 1: all of them, and no pool.
            seed: of the draw, and the experiment's.
        """
        train = np.flatnonzero(~self.test)
        labelled = train
        if fraction < 1:
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


def read(folder: str | Path, name: str) -> RealSet:
    """Read a set of ``FORMS``.

    Raises:
        FeatureFileError: its file is not in the folder, is damaged, or lacks an array.
    """
    form, path = FORMS[name], Path(folder) / FORMS[name].file
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
