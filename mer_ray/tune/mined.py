"""What the mining loop found: its rounds, and the ensemble that has the last word.

Shapes: F folds, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mer_ray.config import LearnerConfig
from mer_ray.learners import folds as folding
from mer_ray.rounds.choice import Choice
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.rounds.split import Adoptions, first_adopted


@dataclass(frozen=True)
class Round:
    """One round of mining.

    Attributes:
        number: 0 is the labelled data alone.
        learners: those that voted, best first by out-of-fold WAF.
        learner_waf: out-of-fold WAF of each.
        oof_waf: of the mean of their probabilities, on the labelled clips.
        mean: of their votes on every clip.
        raw: the same of their votes as they gave them, not tempered, float64 (N, C).
        votes: by learner, probabilities (N, C), out of fold for labelled clips, NaN where it abstains; tempered.
        weights: by learner, how much each of its features counted, (N, features of the learner).
        temperatures: by learner, what the votes of each of its models were tempered by.
        valence: by learner, what it says of valence (N,), as ``votes``; empty where that is not learnt.
        trained_on: the pseudo-labels that it was trained on, of all earlier rounds, or by ``relabel=revisit`` of the
            round before.
        selected: what its votes adopt for the next round.
        kept: False when the guard dropped it.
        reason: why mining goes on, ends, or drops the round.
    """

    number: int
    learners: tuple[str, ...]
    learner_waf: Mapping[str, float]
    oof_waf: float
    mean: Ensemble
    raw: NDArray[np.float64]
    votes: Mapping[str, NDArray[np.float64]]
    weights: Mapping[str, NDArray[np.float64]]
    temperatures: Mapping[str, tuple[float, ...]]
    valence: Mapping[str, NDArray[np.float64]]
    trained_on: Adoptions
    selected: Adoptions
    kept: bool
    reason: str

    def figures(self, num_models: int) -> dict[str, Any]:
        """``metrics.json`` of the round, where a learner has so many models."""
        return {
            "round": self.number,
            "oof_waf": self.oof_waf,
            "learners": dict(self.learner_waf),
            "temperatures": {name: list(by_model) for name, by_model in self.temperatures.items()},
            "selected": num_clips(self.selected),
            "selected_by_fold": self.selected.num_clips_by_fold(num_models),
            "trained_on": num_clips(self.trained_on),
            "kept": self.kept,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Mined:
    """The result of the loop.

    Attributes:
        rounds: every round fitted, the dropped one included.
        final: the ensemble of the last round kept, tempered.
        temperature: by which, of clips without a label.
        valence: what the same learners say of it in the mean (N,); None where it is not learnt.
        learners: every learner's config, by name.
        folds: how the labelled clips were held out.
        how: how the votes of the last round kept were combined.
        choice: what the labelled clips chose by ``mining.strategy=auto``; else None.
        answers: what each candidate says of every clip; empty without a choice.
    """

    rounds: tuple[Round, ...]
    final: Ensemble
    temperature: float
    valence: NDArray[np.float64] | None
    learners: Mapping[str, LearnerConfig]
    folds: folding.Folds
    how: Literal["mode", "mean"]
    choice: Choice | None = None
    answers: Mapping[str, Ensemble] = field(default_factory=dict)

    @property
    def last(self) -> Round:
        """The last round kept."""
        return [one for one in self.rounds if one.kept][-1]

    @property
    def adopted(self) -> NDArray[np.int64]:
        """The round whose votes first adopted each clip, for a round that was kept, int64 (N,); -1 where none did."""
        return first_adopted((one.trained_on for one in self.rounds if one.kept), len(self.final.label))


def num_clips(adoptions: Adoptions) -> int:
    """How many different clips were adopted, in whatever folds."""
    return len(np.unique(adoptions.clip))
