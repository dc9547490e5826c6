"""How features are standardised before any learner sees them: as the config says, or as wins out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from mer_ray import config as configs
from mer_ray.config import FitConfig
from mer_ray.data.room import Room
from mer_ray.errors import ConfigError
from mer_ray.learners.scaling import Scaling
from mer_ray.tune.trials import FitContext

Way = Literal["fold", "speaker", "voices"]
FILE = "scaling.safetensors"
"""Where ``rounds/`` keeps what is known of speakers or voices; not there when features go in as they are."""


def ways(asked: Literal["auto"] | Way, speakers: Sequence[str | None]) -> tuple[Way, ...]:
    """What is to be tried: one way, or by ``auto`` two, of which the first is taken unless the second is better.

    Raises:
        ConfigError: by speaker, and no clip has one.

    >>> ways("auto", ["ann", "bo", None])
    ('fold', 'speaker')
    """
    num_known = sum(speaker is not None for speaker in speakers)
    if asked == "speaker" and not num_known:
        raise ConfigError(
            "fit.standardise=speaker, and no clip has a speaker; give the manifest a column speaker, or set voices"
        )
    if asked != "auto":
        return (asked,)
    return ("fold", "speaker" if 2 * num_known >= len(speakers) else "voices")


def prepare(context: FitContext, way: Way, fit: FitConfig) -> tuple[FitContext, Scaling | None]:
    """The context with its features standardised, all clips of a speaker or voice together; ``fold`` leaves them alone.

    By ``fold`` each model standardises by the clips that it trains on.
    """
    if way == "fold":
        return context, None
    experiment = context.experiment
    scaling = Scaling.learn(experiment.features, experiment.speakers, way, fit.shrink, experiment.seed)
    digest = configs.digest({"experiment": context.digest, "standardise": way})
    features = scaling.apply(experiment.features, experiment.speakers, Room(fit.memory_bytes))
    return replace(
        context, experiment=replace(experiment, features=features, features_digest=digest), digest=digest
    ), scaling
