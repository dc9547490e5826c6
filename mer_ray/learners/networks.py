"""The fusion networks of one learner, one per fold, asked about clips.

Shapes: F folds, N clips, M features, D width of the space, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mer_ray.data.features import FeatureSet
from mer_ray.fusion import base
from mer_ray.learners.batches import shared
from mer_ray.learners.model import FoldModel, tensors
from mer_ray.learners.predict import Predictor

_BLOCK = 512
"""Clips at a time: few enough for the cache, many enough for the products."""

_TRIED = 16


@dataclass(frozen=True)
class Networks:
    """Networks of one shape.

    Attributes:
        config: the fusion model's, widths and number of classes included.
        models: one per fold, in evaluation mode.
    """

    config: base.Config
    models: tuple[FoldModel, ...]

    @property
    def has_valence(self) -> bool:
        """Whether they predict valence too."""
        return self.models[0].valence is not None

    def predict(
        self, features: FeatureSet
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
        """Probabilities (F, N, C), weights (F, N, M) and valence (F, N) or None; NaN of clips without any feature."""
        seen = torch.from_numpy(np.flatnonzero(features.present.any(axis=1)))
        values, present = [shared(feature.values) for feature in features.features], torch.from_numpy(features.present)
        shape = (len(self.models), len(features.clip_ids))
        probabilities = np.full((*shape, self.config.num_classes), np.nan, dtype=np.float32)
        weights = np.full((*shape, len(features.features)), np.nan, dtype=np.float32)
        valence = np.full(shape, np.nan, dtype=np.float32) if self.has_valence else None
        if len(seen):
            few = seen[:_TRIED]
            predictor = Predictor(self.models, [x[few] for x in values], present[few])
            for rows in torch.split(seen, _BLOCK):
                outputs = predictor([x.index_select(0, rows) for x in values], present[rows])
                at = rows.numpy()  # numpy takes a tensor of one row for a number, and drops the dimension
                probabilities[:, at] = outputs.logits.softmax(dim=2).numpy()
                weights[:, at] = outputs.weights.numpy()
                if valence is not None and outputs.valence is not None:
                    valence[:, at] = outputs.valence.numpy()
        return probabilities, weights, valence

    @torch.no_grad()
    def embed(self, features: FeatureSet, rows: NDArray[np.int64]) -> Tensor:
        """Clips in the penultimate space, float32 (B, D): what the last layer of the first fold's network reads."""
        model, caught = self.models[0], list[Tensor]()
        outputs = model.fusion.config.num_classes
        last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == outputs][-1:]
        hooks = [layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0])) for layer in last]
        logits, _ = model(*tensors(features.take(rows)))
        for hook in hooks:
            hook.remove()
        return caught[-1] if caught else logits  # a fusion may end in no linear layer

    def to_tensors(self) -> dict[str, Tensor]:
        """All that they have learnt, of fold f under ``fold<f>.``."""
        return {
            f"fold{fold}.{name}": tensor.contiguous()
            for fold, model in enumerate(self.models)
            for name, tensor in model.state_dict().items()
        }

    @classmethod
    def from_tensors(cls, config: base.Config, empty: Sequence[FoldModel], state: Mapping[str, Tensor]) -> Networks:
        """From ``to_tensors``; predict the same.

        Args:
            config: of the fusion model.
            empty: networks of that config, one per fold.
            state: their tensors.

        Raises:
            ValueError, RuntimeError: they are not those of these networks.
        """
        if sum(len(model.state_dict()) for model in empty) != len(state):
            raise ValueError("its folds are not those of its tensors")
        for fold, model in enumerate(empty):
            prefix = f"fold{fold}."
            own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            model.load_state_dict(own)
        return cls(config, tuple(model.eval() for model in empty))
