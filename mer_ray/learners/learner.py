"""A fitted learner: one model per fold, its predictions, and its files.

Shapes: F folds, N clips, M features, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mer_ray import registry
from mer_ray.config import FitConfig, LearnerConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import ConfigError, CorruptPartError, FeatureFileError
from mer_ray.learners.batches import shared
from mer_ray.learners.fit import TrainingRows, fit_folds, reproducible
from mer_ray.learners.model import FoldModel
from mer_ray.learners.predict import Predictor
from mer_ray.learners.spec import fusion_config

_BLOCK = 512
"""Clips at a time: few enough for the cache, many enough for the products."""

_TRIED = 16


@dataclass(frozen=True)
class Predictions:
    """What a learner says of every clip. Rows of clips that have none of its features are NaN: it abstains.

    Attributes:
        probabilities_FNC: float32, by the model of each fold.
        weights_FNM: float32, how much each feature counted, in the order of the learner's features.
        valence_FN: float32, in the unit of the labelled clips' valence; None where it is not learnt.
    """

    probabilities_FNC: NDArray[np.float32]
    weights_FNM: NDArray[np.float32]
    valence_FN: NDArray[np.float32] | None = None

    def clean(self, held_out: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities (N, C) and weights (N, M): out of fold for labelled clips, else the mean over the folds.

        Args:
            held_out: int64 (N,), the fold that holds a labelled clip out, -1 for all other clips.
        """
        return _out_of_fold(self.probabilities_FNC, held_out), _out_of_fold(self.weights_FNM, held_out)

    def clean_valence(self, held_out: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Valence (N,) as ``clean`` gives the rest; None where it is not learnt."""
        return None if self.valence_FN is None else _out_of_fold(self.valence_FN, held_out)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        arrays = {"probabilities": self.probabilities_FNC, "weights": self.weights_FNM, "valence": self.valence_FN}
        return save_arrays({name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictions:
        """From ``to_bytes``.

        Raises:
            CorruptPartError: the bytes are truncated or something else.
        """
        try:
            arrays = load_arrays(data)
            return cls(arrays["probabilities"], arrays["weights"], arrays.get("valence"))
        except (KeyError, ValueError, SafetensorError) as error:
            raise CorruptPartError(
                f"a learner's predictions are damaged ({error}); delete its folder to make them again"
            ) from error


@dataclass(frozen=True)
class Learner:
    """One fitted learner.

    Attributes:
        config: as configured.
        fusion: the fusion model's config, widths and number of classes included.
        class_names: the label space.
        models: one per fold, in evaluation mode.
    """

    config: LearnerConfig
    fusion: Any
    class_names: tuple[str, ...]
    models: tuple[FoldModel, ...]

    def predict(self, features: FeatureSet) -> Predictions:
        """Predict any clips; ``features`` holds the learner's features among others.

        Raises:
            FeatureFileError: a feature is missing or has another width than in training.
        """
        own = self._own(features)
        seen = torch.from_numpy(np.flatnonzero(own.present.any(axis=1)))
        values, present = [shared(feature.values) for feature in own.features], torch.from_numpy(own.present)
        shape = (len(self.models), len(own.clip_ids))
        found = Predictions(
            np.full((*shape, len(self.class_names)), np.nan, dtype=np.float32),
            np.full((*shape, len(own.features)), np.nan, dtype=np.float32),
            np.full(shape, np.nan, dtype=np.float32) if self.has_valence else None,
        )
        if not len(seen):
            return found
        with reproducible(0):
            few = seen[:_TRIED]
            predictor = Predictor(self.models, [x[few] for x in values], present[few])
            for rows in torch.split(seen, _BLOCK):
                outputs = predictor([x.index_select(0, rows) for x in values], present[rows])
                at = rows.numpy()  # numpy takes a tensor of one row for a number, and drops the dimension
                found.probabilities_FNC[:, at] = outputs.logits.softmax(dim=2).numpy()
                found.weights_FNM[:, at] = outputs.weights.numpy()
                if found.valence_FN is not None and outputs.valence is not None:
                    found.valence_FN[:, at] = outputs.valence.numpy()
        return found

    @property
    def has_valence(self) -> bool:
        """Whether the models predict valence too."""
        return self.models[0].valence is not None

    def to_files(self) -> dict[str, bytes]:
        """``model.safetensors`` (tensors of fold f under ``fold<f>.``) and ``config.json``."""
        state = {
            f"fold{fold}.{name}": tensor.contiguous()
            for fold, model in enumerate(self.models)
            for name, tensor in model.state_dict().items()
        }
        config = {
            "learner": self.config.model_dump(mode="json"),
            "fusion": self.fusion.model_dump(mode="json"),
            "class_names": list(self.class_names),
            "num_folds": len(self.models),
            "valence": self.has_valence,
        }
        text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)
        return {"model.safetensors": save_tensors(state), "config.json": text.encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Learner:
        """From ``to_files``; predicts the same.

        Raises:
            CorruptPartError: the files are truncated or do not belong together.
        """
        try:
            config = json.loads(files["config.json"])
            learner = LearnerConfig.model_validate(config["learner"])
            fusion: Any = registry.configure("fusion", learner.fusion.name, config["fusion"])
            state = load_tensors(files["model.safetensors"])
            empty = partial(FoldModel, learner.fusion.name, fusion, valence=config["valence"])
            models = tuple(_restored(empty(), state, fold) for fold in range(config["num_folds"]))
            class_names = tuple(config["class_names"])
            if len(class_names) != fusion.num_classes or sum(len(m.state_dict()) for m in models) != len(state):
                raise ValueError("its classes or folds are not those of its tensors")
        except (KeyError, ValueError, TypeError, RuntimeError, ConfigError, SafetensorError) as error:
            raise CorruptPartError(
                f"the files of a learner are damaged ({error}); delete them to fit it again"
            ) from error
        return cls(learner, fusion, class_names, models)

    def _own(self, features: FeatureSet) -> FeatureSet:
        try:
            own = features.only(self.config.features)
        except KeyError as error:
            raise FeatureFileError(f"learner {self.config.name} needs feature {error}, which is not given") from error
        for feature, dim in zip(own.features, self.fusion.dims, strict=True):
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
) -> Learner:
    """Fit one learner over its folds; see ``fit_learners``."""
    return fit_learners(features, [folds], [config], fit, class_names, seed, valence)[0]


def fit_learners(
    features: FeatureSet,
    folds: Sequence[Sequence[TrainingRows]],
    configs: Sequence[LearnerConfig],
    fit: FitConfig,
    class_names: Sequence[str],
    seed: int,
    valence: NDArray[np.float32] | None = None,
) -> list[Learner]:
    """Fit learners of one shape, which differ in seed and training clips, over all their folds as one batched program.

    Args:
        features: of all clips; the learners' own are taken from it.
        folds: of each learner, what each fold trains on.
        configs: the learners: of the same features and fusion model.
        fit: epochs and the like.
        class_names: the label space, in order.
        seed: the job's; with the learner's own and the fold it makes the seed of a model.
        valence: float32 (N,), NaN where unknown; see ``fit_folds``.

    Raises:
        LearnerError: see ``fit_folds``.
    """
    own = features.only(configs[0].features)
    fusion = fusion_config(configs[0], features, fit, len(class_names))
    seeds = [
        _seed(seed, one.seed, fold) for one, parts in zip(configs, folds, strict=True) for fold in range(len(parts))
    ]
    models = iter(fit_folds(own, list(chain(*folds)), configs[0].fusion.name, fusion, fit, seeds, valence))
    return [
        Learner(one, fusion, tuple(class_names), tuple(islice(models, len(parts))))
        for one, parts in zip(configs, folds, strict=True)
    ]


def _seed(seed: int, own: int, fold: int) -> int:
    """Of the job's, the learner's and the fold: not of a sum, by which other pairs would share their draws."""
    return int(np.random.SeedSequence([seed % 2**32, own % 2**32, fold]).generate_state(1)[0])


def _restored(model: FoldModel, state: Mapping[str, torch.Tensor], fold: int) -> FoldModel:
    prefix = f"fold{fold}."
    model.load_state_dict({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})
    return model.eval()


def _out_of_fold(values_FNX: NDArray[np.float32], held_out: NDArray[np.int64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = values_FNX.mean(axis=0, dtype=np.float64)
    labelled = np.flatnonzero(held_out >= 0)
    values[labelled] = values_FNX[held_out[labelled], labelled]
    return values
