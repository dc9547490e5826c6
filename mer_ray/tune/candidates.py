"""``mining.strategy=auto``: the ways of labelling the pool that are tried, and what the labelled clips choose.

Candidates that know the labels alone: the plain learners (``round_0``, four fusion networks unless others are listed),
``linear`` and ``lda``. Candidates that learn from the pool too: ``lda_em``, a ``student`` of it, and the ``mean`` of
both, tempered. Of listed learners those that read the pool are the candidates of the second kind, the others the plain
learners.

Shapes: N clips, F folds, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_ray.config import LearnerConfig, PluginConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import ConfigError
from mer_ray.learners import spec
from mer_ray.rounds.choice import Answers, Choice, choose
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.tune.committee import Committee

AUTO = "auto"
PLAIN, MEAN = "round_0", "mean"
_TEACHER = "lda_em"


@dataclass(frozen=True)
class Learners:
    """Who is fitted, by name.

    Attributes:
        plain: those of round 0.
        judged: others that know the labels alone; they are judged, and never vote.
        taught: those that learn from the pool too, the most trusted last.
    """

    plain: Mapping[str, LearnerConfig]
    judged: Mapping[str, LearnerConfig]
    taught: Mapping[str, LearnerConfig]

    @property
    def everyone(self) -> dict[str, LearnerConfig]:
        """All of them."""
        return {**self.plain, **self.judged, **self.taught}

    @property
    def candidates(self) -> dict[str, tuple[str, ...]]:
        """The learners of each candidate that learns from the pool, the most trusted last."""
        alone: dict[str, tuple[str, ...]] = {name: (name,) for name in self.taught}
        return {**alone, MEAN: tuple(self.taught)} if len(alone) > 1 else alone


def learners(listed: Sequence[LearnerConfig], features: FeatureSet, strategy: str, *, are_listed: bool) -> Learners:
    """Who is fitted, by strategy.

    Args:
        listed: the config's learners, or the four that stand for ``learners: auto``.
        features: of all clips.
        strategy: of mining; by another than ``auto`` all are plain.
        are_listed: whether the config lists them.

    Raises:
        ConfigError: every listed learner learns from the pool, or none does.
    """
    if strategy != AUTO:
        return Learners(_by_name(listed), {}, {})
    if are_listed:
        taught = [one for one in listed if one.teacher is not None or spec.reads_pool(one)]
        plain = [one for one in listed if one not in taught]
        if not taught or not plain:
            raise ConfigError(
                "mining.strategy=auto chooses between learners of the labels alone and learners that read the pool "
                "(model: lda_em, or a teacher), and only one kind is listed: list both, or set learners=auto"
            )
        return Learners(_by_name(plain), {}, _by_name(taught))
    everything = [feature.name for feature in features.features]
    judged = {
        "linear": PluginConfig(name="linear"),
        "lda": PluginConfig(name="lda_em", options={"steps": 0}),
    }
    return Learners(
        _by_name(listed),
        {name: LearnerConfig(name=name, features=everything, model=model) for name, model in judged.items()},
        _by_name(
            [
                LearnerConfig(name=_TEACHER, features=everything, model=PluginConfig(name=_TEACHER)),
                LearnerConfig(name="student", features=everything, teacher=_TEACHER),
            ]
        ),
    )


def ask(
    committee: Committee, who: Learners, said: Mapping[str, NDArray[np.float64]], plain: Ensemble
) -> dict[str, Ensemble]:
    """What each candidate says of every clip: the plain learners, those that are only judged, the others by trust.

    Args:
        committee: who reads the votes.
        who: the learners.
        said: votes of those that were fitted, calibrated.
        plain: the answer of the plain learners.
    """
    alone = {name: (name,) for name in who.judged}
    voters = {name: them for name, them in {**alone, **who.candidates}.items() if all(one in said for one in them)}
    return {PLAIN: plain} | {name: committee.mean({one: said[one] for one in them}) for name, them in voters.items()}


def decide(committee: Committee, who: Learners, answers: Mapping[str, Ensemble], *, guard: bool) -> Choice:
    """What the labelled clips choose.

    Args:
        committee: who reads the votes.
        who: the learners.
        answers: of all candidates, see ``ask``.
        guard: whether the labelled clips are asked; else the most trusted candidate is taken.
    """
    experiment = committee.experiment
    rows = experiment.labelled
    known = Answers(
        {name: answer.probabilities[rows] for name, answer in answers.items()},
        {name: answer.label[rows] for name, answer in answers.items()},
        experiment.labels[rows],
        committee.folds.held_out,
        _numbers([experiment.speakers[row] for row in rows]),
    )
    return choose(known, [name for name in answers if name not in who.judged], experiment.seed, ask=guard)


def keep(who: Learners, found: Collection[str]) -> Learners:
    """The learners that are left, where some have failed and that is allowed."""
    judged, taught = ({name: one for name, one in kind.items() if name in found} for kind in (who.judged, who.taught))
    return replace(who, judged=judged, taught=taught)


def told(choice: Choice) -> dict[str, Any]:
    """``kept`` and ``reason`` of the round of those that learn from the pool."""
    one, plain = choice.judged[choice.name], choice.judged[PLAIN]
    figures = f"out-of-fold WAF {one.oof_waf:.4f}, plain learners {plain.oof_waf:.4f} (± {one.noise:.4f})"
    if choice.reason:
        return {"kept": True, "reason": f"{choice.name} is taken: {choice.reason}"}
    if choice.name == PLAIN:
        return {
            "kept": False,
            "reason": f"round 0 labels: all that learn from the pool do worse out of fold ({figures})",
        }
    return {"kept": True, "reason": f"{choice.name} is chosen: {figures}"}


def _numbers(speakers: Sequence[str | None]) -> NDArray[np.int64] | None:
    """A number for each speaker; None where one is not known."""
    if any(speaker is None for speaker in speakers):
        return None
    return np.unique(np.array(speakers, dtype=str), return_inverse=True)[1].astype(np.int64)


def _by_name(given: Sequence[LearnerConfig]) -> dict[str, LearnerConfig]:
    return {one.name: one for one in given}
