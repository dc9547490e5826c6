"""A fitted learner: what it is made of, its predictions, and its files.

Shapes: F folds, N clips, M features, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mer_ray import registry
from mer_ray.classifiers.base import Classifier
from mer_ray.config import FitConfig, LearnerConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import ConfigError, CorruptPartError, FeatureFileError
from mer_ray.learners import closed, spec
from mer_ray.learners.fit import TrainingRows, fit_folds, reproducible
from mer_ray.learners.model import FoldModel
from mer_ray.learners.networks import Networks

Last = Literal["all", "folds"]
"""Who answers for clips without a label: the last model, which holds nothing out, or the mean of the folds' models."""

_STUDENT_STEPS = 600
_STUDENT_FIT = {"label_smoothing": 0.05, "inner_share": 0.0}


@dataclass(frozen=True)
class Predictions:
    """What a learner says of every clip. Rows of clips that have none of its features are NaN: it abstains.

    Attributes:
        probabilities_FNC: float32, by the model of each fold.
        weights_FNM: float32, how much each feature counted, in the order of the learner's features.
        valence_FN: float32, in the unit of the labelled clips' valence; None where it is not learnt.
        final: ``all`` where the last model holds no labelled clip out.
    """

    probabilities_FNC: NDArray[np.float32]
    weights_FNM: NDArray[np.float32]
    valence_FN: NDArray[np.float32] | None = None
    final: Last = "folds"

    def clean(self, held_out: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities (N, C) and weights (N, M): out of fold for labelled clips, else as ``final`` says.

        Args:
            held_out: int64 (N,), the fold that holds a labelled clip out, -1 for all other clips.
        """
        return self._clean(self.probabilities_FNC, held_out), self._clean(self.weights_FNM, held_out)

    def clean_valence(self, held_out: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Valence (N,) as ``clean`` gives the rest; None where it is not learnt."""
        return None if self.valence_FN is None else self._clean(self.valence_FN, held_out)

    def _clean(self, values_FNX: NDArray[np.float32], held_out: NDArray[np.int64]) -> NDArray[np.float64]:
        folds = values_FNX.mean(axis=0, dtype=np.float64) if self.final == "folds" else values_FNX[-1]
        values: NDArray[np.float64] = folds.astype(np.float64)
        labelled = np.flatnonzero(held_out >= 0)
        values[labelled] = values_FNX[held_out[labelled], labelled]
        return values

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        arrays = {"probabilities": self.probabilities_FNC, "weights": self.weights_FNM, "valence": self.valence_FN}
        all_labels = {"final_is_all": np.array([self.final == "all"])}
        return save_arrays({**all_labels, **{name: array for name, array in arrays.items() if array is not None}})

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictions:
        """From ``to_bytes``.

        Raises:
            CorruptPartError: the bytes are truncated or something else.
        """
        try:
            arrays = load_arrays(data)
            final: Last = "all" if arrays["final_is_all"].item() else "folds"
            return cls(arrays["probabilities"], arrays["weights"], arrays.get("valence"), final)
        except (KeyError, ValueError, SafetensorError) as error:
            raise CorruptPartError(
                f"a learner's predictions are damaged ({error}); delete its folder to make them again"
            ) from error


@dataclass(frozen=True)
class Learner:
    """One fitted learner.

    Attributes:
        config: as configured.
        class_names: the label space.
        model: what answers, of all folds: fusion networks or a classifier.
        final: see ``Last``.
    """

    config: LearnerConfig
    class_names: tuple[str, ...]
    model: Networks | Classifier
    final: Last = "folds"

    def predict(self, features: FeatureSet) -> Predictions:
        """Predict any clips; ``features`` holds the learner's features among others.

        Raises:
            FeatureFileError: a feature is missing or has another width than in training.
        """
        own = self._own(features)
        with reproducible(0):
            probabilities, weights, *valence = self.model.predict(own)
        return Predictions(probabilities, weights, valence[0] if valence else None, self.final)

    def embed(self, features: FeatureSet, rows: NDArray[np.int64]) -> torch.Tensor:
        """The clips at ``rows`` in the space in which the learner tells the classes apart, float32 (B, width)."""
        return self.model.embed(self._own(features), rows)

    def to_files(self) -> dict[str, bytes]:
        """``model.safetensors`` and ``config.json``."""
        networks = self.model if isinstance(self.model, Networks) else None
        config = {
            "learner": self.config.model_dump(mode="json"),
            "model": self.model.config.model_dump(mode="json"),
            "class_names": list(self.class_names),
            "num_folds": len(networks.models) if networks else None,
            "valence": bool(networks and networks.has_valence),
            "final": self.final,
        }
        text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)
        return {"model.safetensors": save_tensors(self.model.to_tensors()), "config.json": text.encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Learner:
        """From ``to_files``; predicts the same.

        Raises:
            CorruptPartError: the files are truncated or do not belong together.
        """
        try:
            told = json.loads(files["config.json"])
            config = LearnerConfig.model_validate(told["learner"])
            state = load_tensors(files["model.safetensors"])
            restored = _networks if config.model.name == spec.NETWORK else _classifier
            model, class_names, final = restored(config, told, state), tuple(told["class_names"]), told["final"]
            if len(class_names) != model.config.num_classes:
                raise ValueError("its classes are not those of its tensors")
        except (KeyError, ValueError, TypeError, RuntimeError, ConfigError, SafetensorError) as error:
            raise CorruptPartError(
                f"the files of a learner are damaged ({error}); delete them to fit it again"
            ) from error
        return cls(config, class_names, model, final)

    def _own(self, features: FeatureSet) -> FeatureSet:
        try:
            own = features.only(self.config.features)
        except KeyError as error:
            raise FeatureFileError(f"learner {self.config.name} needs feature {error}, which is not given") from error
        for feature, dim in zip(own.features, self.model.config.dims, strict=True):
            if feature.values.shape[1] != dim:
                raise FeatureFileError(
                    f"learner {self.config.name}: feature {feature.name} is {feature.values.shape[1]} wide and was "
                    f"{dim} in training; encode with the same settings"
                )
        return own


def fit_learner(
    features: FeatureSet,
    folds: Sequence[TrainingRows],
    config: LearnerConfig,
    fit: FitConfig,
    class_names: Sequence[str],
    seed: int,
    valence: NDArray[np.float32] | None = None,
    final: Last = "folds",
) -> Learner:
    """Fit one learner over its folds; see ``fit_learners``."""
    return fit_learners(features, [folds], [config], fit, class_names, seed, valence, final)[0]


def fit_learners(
    features: FeatureSet,
    folds: Sequence[Sequence[TrainingRows]],
    configs: Sequence[LearnerConfig],
    fit: FitConfig,
    class_names: Sequence[str],
    seed: int,
    valence: NDArray[np.float32] | None = None,
    final: Last = "folds",
) -> list[Learner]:
    """Fit learners of one shape over all their folds together.

    Networks differ in seed and training clips, and are one batched program; other classifiers differ in seed and
    features, and share what they read.

    Args:
        features: of all clips; the learners' own are taken from it.
        folds: of each learner, what each fold trains on.
        configs: the learners: of the same features and fusion model, or of the same ``model`` and ``folds``.
        fit: epochs and the like.
        class_names: the label space, in order.
        seed: the job's; with the learner's own and the fold it makes the seed of a model.
        valence: float32 (N,), NaN where unknown; see ``fit_folds``.
        final: ``all`` where the last of ``folds`` holds nothing out.

    Raises:
        LearnerError: see ``fit_folds``.
    """
    names = tuple(class_names)
    if configs[0].model.name != spec.NETWORK:
        with reproducible(seed):
            found = closed.fit(features, folds[0], configs, len(names), [_seed(seed, one.seed, 0) for one in configs])
        return [Learner(one, names, model, final) for one, model in zip(configs, found, strict=True)]
    own = features.only(configs[0].features)
    fusion = spec.fusion_config(configs[0], features, fit, len(names))
    seeds = [
        _seed(seed, one.seed, fold) for one, parts in zip(configs, folds, strict=True) for fold in range(len(parts))
    ]
    num_steps = None
    if configs[0].teacher is not None:
        num_steps, fit = _STUDENT_STEPS, fit.model_copy(update=_STUDENT_FIT)
    models = iter(fit_folds(own, list(chain(*folds)), configs[0].fusion.name, fusion, fit, seeds, valence, num_steps))
    return [
        Learner(one, names, Networks(fusion, tuple(islice(models, len(parts)))), final)
        for one, parts in zip(configs, folds, strict=True)
    ]


def _seed(seed: int, own: int, fold: int) -> int:
    """Of the job's, the learner's and the fold: not of a sum, by which other pairs would share their draws."""
    return int(np.random.SeedSequence([seed % 2**32, own % 2**32, fold]).generate_state(1)[0])


def _networks(config: LearnerConfig, told: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Networks:
    fusion: Any = registry.configure("fusion", config.fusion.name, told["model"])
    empty = [FoldModel(config.fusion.name, fusion, valence=told["valence"]) for _ in range(told["num_folds"])]
    return Networks.from_tensors(fusion, empty, state)


def _classifier(config: LearnerConfig, told: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> Classifier:
    model: Classifier = registry.build("classifiers", config.model.name, told["model"])
    model.from_tensors(state)
    return model
