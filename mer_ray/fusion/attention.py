"""Attention over the features of a clip (P1 section 2.1, in MERBench's form)."""

from __future__ import annotations

from torch import Tensor, nn

from mer_ray.fusion import base


class Config(base.Config):
    """See ``base.Config``."""


class Model(base.Model):
    """Weigh each feature by attention over all of them, then classify the weighted sum (P1 section 2.1).

    Each feature goes through its own perceptron to a common width; from their concatenation a perceptron makes one
    score per feature; a softmax over the features present gives the weights.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        num_features = len(config.dims)
        self.embed = base.Embedding(config)
        self.score = nn.Sequential(
            nn.Linear(num_features * config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, num_features),
        )
        self.classify = nn.Linear(config.hidden, config.num_classes)

    def forward(self, features: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """See ``base.Model`` for shapes."""
        self.check(features, present)
        present = self.drop(present)
        h_BMD = self.embed(features, present)
        scores_BM = self.score(h_BMD.flatten(start_dim=1)).masked_fill(~present, -float("inf"))
        weights_BM = scores_BM.softmax(dim=1)
        return self.classify((weights_BM.unsqueeze(-1) * h_BMD).sum(dim=1)), weights_BM
