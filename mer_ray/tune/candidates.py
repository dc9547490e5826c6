"""``mining.strategy=auto``: the ways of labelling the pool that are tried, and what the labelled clips choose.

Candidates that know the labels alone: the plain learners (``round_0``, four fusion networks unless others are listed),
``linear`` and ``lda``. Candidates that learn from the pool too: ``lda_em``, a ``student`` of it, and the ``mean`` of
both, tempered. Of listed learners those that read the pool are the candidates of the second kind, or where none does
the same two; the others are the plain learners.

Shapes: N clips, F folds, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mer_ray import registry
from mer_ray.config import LearnerConfig, MiningConfig, PluginConfig
from mer_ray.data.features import FeatureSet
from mer_ray.errors import ConfigError
from mer_ray.learners import spec
from mer_ray.rounds.choice import Answers, Choice, choose
from mer_ray.rounds.ensemble import Ensemble
from mer_ray.tune.committee import Committee

AUTO = "auto"
PLAIN, MEAN = "round_0", "mean"
_TEACHER = "lda_em"


class Options(BaseModel):
    """``mining.options`` of ``auto``: how the learners that it makes itself learn from the pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shrink: float = Field(0.4, ge=0, le=1, description="of lda and lda_em: share of the diagonal in the correlations")
    pool_weight: float = Field(0.2, ge=0, le=1, description="of lda_em: what a clip of the pool counts")
    teacher_weight: float = Field(0.3, gt=0, description="of the student: what a clip that lda_em answers for counts")


@dataclass(frozen=True)
class Learners:
    """Who is fitted, by name.

    Attributes:
        plain: those of round 0.
        judged: others that know the labels alone; they are judged, and never vote.
        taught: those that learn from the pool too, the most trusted last.
        valence: whether what is chosen must tell the valence, which networks alone do.
    """

    plain: Mapping[str, LearnerConfig]
    judged: Mapping[str, LearnerConfig]
    taught: Mapping[str, LearnerConfig]
    valence: bool = False

    @property
    def everyone(self) -> dict[str, LearnerConfig]:
        """All of them."""
        return {**self.plain, **self.judged, **self.taught}

    @property
    def candidates(self) -> dict[str, tuple[str, ...]]:
        """The learners of each candidate that learns from the pool, the most trusted last."""
        alone: dict[str, tuple[str, ...]] = {
            name: (name,) for name, one in self.taught.items() if not self.valence or one.model.name == spec.NETWORK
        }
        return {**alone, MEAN: tuple(self.taught)} if alone and len(self.taught) > 1 else alone


def makes_own(learners: Literal["auto"] | Sequence[LearnerConfig]) -> bool:
    """Whether the learners that read the pool are those that ``auto`` makes: where none is listed."""
    return learners == "auto" or not any(_reads(one) for one in learners)


def configure(mining: MiningConfig, learners: Literal["auto"] | Sequence[LearnerConfig]) -> BaseModel:
    """``mining.options`` as the ``Config`` of the strategy.

    Args:
        mining: the strategy and its options.
        learners: the config's.

    Raises:
        ConfigError: an option is unknown or has a bad value, or is given to ``auto`` where others read the pool.
        PluginError: an unknown strategy.
    """
    if mining.strategy != AUTO:
        return registry.configure("mining", mining.strategy, mining.options)
    if mining.options and not makes_own(learners):
        raise ConfigError(
            f"mining.options ({', '.join(mining.options)}) of mining.strategy={AUTO} are of the learners that it makes "
            "itself: give those that you list their own, as learners[].model.options and learners[].teacher_weight"
        )
    try:
        return Options(**mining.options)
    except ValidationError as error:
        raise ConfigError("\n".join(registry.explain(error, Options, f"mining.{AUTO}"))) from error


def learners(
    listed: Sequence[LearnerConfig],
    features: FeatureSet,
    mining: MiningConfig,
    *,
    are_listed: bool,
    valence: bool,
) -> Learners:
    """Who is fitted, by strategy.

    Args:
        listed: the config's learners, or the four that stand for ``learners: auto``.
        features: of all clips.
        mining: by another strategy than ``auto`` all are plain.
        are_listed: whether the config lists them.
        valence: whether the valence is learnt.

    Raises:
        ConfigError: every listed learner learns from the pool, or one has the name of another that is added.
    """
    options = configure(mining, listed if are_listed else "auto")
    if not isinstance(options, Options):
        return Learners(_by_name(listed), {}, {})
    taught = [one for one in listed if _reads(one)]
    plain = _by_name(one for one in listed if one not in taught)
    if not plain:
        raise ConfigError(
            "mining.strategy=auto chooses between learners of the labels alone and learners that read the pool, and "
            "every learner listed reads it (model: lda_em, or a teacher): list others too, or set learners=auto"
        )
    everything = [feature.name for feature in features.features]
    reading = {"shrink": options.shrink, "pool_weight": options.pool_weight}
    teacher = LearnerConfig(name=_TEACHER, features=everything, model=PluginConfig(name=_TEACHER, options=reading))
    student = LearnerConfig(
        name="student", features=everything, teacher=_TEACHER, teacher_weight=options.teacher_weight
    )
    added = _by_name([teacher, student])
    if are_listed:
        if not taught and (taken := plain.keys() & added.keys()):
            raise ConfigError(
                f"mining.strategy=auto adds learners lda_em and student, and {', '.join(sorted(taken))} is listed: "
                "give it another name"
            )
        return Learners(plain, {}, _by_name(taught) or added, valence)
    judged = {
        "linear": PluginConfig(name="linear"),
        "lda": PluginConfig(name=_TEACHER, options={"shrink": options.shrink, "steps": 0}),
    }
    alone = [LearnerConfig(name=name, features=everything, model=model) for name, model in judged.items()]
    return Learners(plain, _by_name(alone), added, valence)


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
        experiment.labelled_speakers,
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


def _reads(learner: LearnerConfig) -> bool:
    """Whether the pool teaches a learner, by itself or by a teacher."""
    return learner.teacher is not None or spec.reads_pool(learner)


def _by_name(given: Iterable[LearnerConfig]) -> dict[str, LearnerConfig]:
    return {one.name: one for one in given}
