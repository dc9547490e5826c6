"""Which learners there are: four different ones of whatever features there are, or those the user lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from mer_ray import registry
from mer_ray.classifiers import base as classifiers
from mer_ray.config import FitConfig, LearnerConfig, PluginConfig
from mer_ray.data.features import Feature, FeatureSet
from mer_ray.errors import ConfigError
from mer_ray.fusion import base
from mer_ray.types import Modality

NUM_LEARNERS = 4
NETWORK = "fusion"
"""What a learner is unless its ``model`` names one of ``classifiers/``."""

_LEFT_OUT_FIRST = (Modality.JOINT, Modality.TEXT, Modality.AUDIO, Modality.VIDEO)
_FUSIONS = ("concat", "gated", "lmf", "attention")
"""The first, which reads every subset, was the best out of fold with few labels; see docs/benchmarks.md."""


def resolve(
    learners: Literal["auto"] | Sequence[LearnerConfig], features: FeatureSet, fit: FitConfig, num_classes: int
) -> list[LearnerConfig]:
    """The configured learners, checked against the features there are; ``auto`` makes four.

    Raises:
        ConfigError: no feature at all, an unknown feature (the nearest one is named), one named twice in a learner, two
            learners of one name, or an option that the fusion model does not have.
        PluginError: no such fusion model.
    """
    if not features.features:
        raise ConfigError("there are no features to learn from: name encoders or data.features")
    chosen = auto(features) if learners == "auto" else list(learners)
    if not chosen:
        raise ConfigError("learners: the list is empty; give auto or at least one learner")
    names = [learner.name for learner in chosen]
    if len(set(names)) != len(names):
        raise ConfigError(f"learners: names must differ, these are given: {', '.join(names)}")
    known = [feature.name for feature in features.features]
    for learner in chosen:
        for name in learner.features:
            if name not in known:
                near = registry.nearest(name, known)
                raise ConfigError(f"learner {learner.name}: no feature {name!r}{near}; there are: {', '.join(known)}")
        if len(set(learner.features)) != len(learner.features):
            raise ConfigError(f"learner {learner.name}: a feature is named twice: {', '.join(learner.features)}")
    check(chosen, fit)
    for learner in chosen:
        fusion_config(learner, features, fit, num_classes)
    return chosen


def check(learners: Sequence[LearnerConfig], fit: FitConfig) -> None:
    """Hold learners to what they are said to be, before there are features.

    Raises:
        ConfigError: an option that its model does not have, a teacher that cannot be, or ``fit.valence`` is set and no
            learner is a network.
        PluginError: no such fusion model.
    """
    for learner in learners:
        registry.find("fusion", learner.fusion.name)
        if learner.model.name != NETWORK:
            _classifier_config(learner, (1,), 2, 1)
        elif learner.model.options:
            raise ConfigError(
                f"learner {learner.name}: model {NETWORK} has no options ({', '.join(learner.model.options)}); "
                "give them to its key fusion"
            )
    by_name = {learner.name: learner for learner in learners}
    for student in learners:
        if student.teacher is not None:
            _check_teacher(student, student.teacher, by_name)
    if fit.valence and not any(learner.model.name == NETWORK for learner in learners):
        raise ConfigError(
            f"fit.valence is set, and no learner is of model {NETWORK}, which alone learns it: add one, or set 0"
        )


def _check_teacher(student: LearnerConfig, teacher: str, by_name: Mapping[str, LearnerConfig]) -> None:
    """Only what is no network reads the pool by itself, so that no teacher has a teacher and there is no circle."""
    if student.model.name != NETWORK:
        raise ConfigError(f"learner {student.name}: model {student.model.name} has no teacher; only {NETWORK} has")
    if teacher not in by_name:
        near = registry.nearest(teacher, list(by_name))
        raise ConfigError(f"learner {student.name}: no teacher {teacher!r}{near}; there are: {', '.join(by_name)}")
    if not reads_pool(by_name[teacher]):
        raise ConfigError(
            f"learner {student.name}: its teacher {teacher} does not read the pool; name one of model lda_em"
        )


def reads_pool(learner: LearnerConfig) -> bool:
    """Whether clips without a label teach a learner by their features."""
    if learner.model.name == NETWORK:
        return False
    return bool(registry.find("classifiers", learner.model.name).Classifier.reads_pool)


def pool_weight(learner: LearnerConfig) -> float:
    """What a clip of the pool counts for a learner that has a teacher or reads the pool; a labelled clip counts 1."""
    if learner.teacher is not None:
        return learner.teacher_weight
    return float(getattr(_classifier_config(learner, (1,), 2, 1), "pool_weight", 1.0))


def classifier_config(
    learner: LearnerConfig, features: FeatureSet, num_classes: int, num_folds: int
) -> classifiers.Config:
    """The ``Config`` of a learner's classifier.

    Raises:
        ConfigError: an option that it does not have.
        PluginError: no such classifier.
    """
    return _classifier_config(learner, _dims(learner, features), num_classes, num_folds)


def _classifier_config(
    learner: LearnerConfig, dims: tuple[int, ...], num_classes: int, num_folds: int
) -> classifiers.Config:
    own = {"dims": dims, "num_classes": num_classes, "num_folds": num_folds}
    name = learner.model.name
    if name not in (known := registry.names("classifiers")):
        near = registry.nearest(name, [NETWORK, *known])
        raise ConfigError(f"learner {learner.name}: no model {name!r}{near}; there are: {NETWORK}, {', '.join(known)}")
    if own.keys() & learner.model.options.keys():
        raise ConfigError(f"learner {learner.name}: {', '.join(own)} are not options, they are told by the data")
    config = registry.configure("classifiers", name, {**learner.model.options, **own})
    assert isinstance(config, classifiers.Config)
    return config


def _dims(learner: LearnerConfig, features: FeatureSet) -> tuple[int, ...]:
    return tuple(feature.values.shape[1] for feature in features.only(learner.features).features)


def fusion_config(learner: LearnerConfig, features: FeatureSet, fit: FitConfig, num_classes: int) -> base.Config:
    """The ``Config`` of the learner's fusion model; its own options come before those of ``fit``.

    Raises:
        ConfigError: an option that the model does not have.
        PluginError: no such fusion model.
    """
    dims = _dims(learner, features)
    shared = {"hidden": fit.hidden, "dropout": fit.dropout, "modality_dropout": fit.modality_dropout}
    options = {**shared, **learner.fusion.options, "dims": dims, "num_classes": num_classes}
    config = registry.configure("fusion", learner.fusion.name, options)
    assert isinstance(config, base.Config)
    return config


def auto(features: FeatureSet) -> list[LearnerConfig]:
    """Four different learners of one or more features: first of different feature subsets, then of fusion kinds.

    The subsets are P1's (section 2.5): everything, then everything but one modality, the joint one first. With fewer
    than three modalities single features are left out instead of whole modalities.
    """
    first, *others = _FUSIONS
    (whole, everything), *subsets = _subsets(features)
    kinds = [(whole, everything, first), *((label, names, first) for label, names in subsets)]
    kinds += [(f"{whole}-{fusion}", everything, fusion) for fusion in others]
    return [
        LearnerConfig(name=label, features=names, fusion=PluginConfig(name=fusion))
        for label, names, fusion in kinds[:NUM_LEARNERS]
    ]


def _subsets(features: FeatureSet) -> Iterator[tuple[str, list[str]]]:
    """Named subsets, the most telling first: all, then all but one unit."""
    modalities = list(dict.fromkeys(feature.modality for feature in features.features))
    by_modality = len(modalities) >= 3
    units = modalities if by_modality else [feature.name for feature in features.features]
    yield "all", [feature.name for feature in features.features]
    if len(units) < 3:
        return
    last = len(_LEFT_OUT_FIRST)
    taken: set[str] = set()
    order: dict[str, int] = {modality: place for place, modality in enumerate(_LEFT_OUT_FIRST)}
    for number, unit in enumerate(sorted(units, key=lambda unit: order.get(unit, last)) if by_modality else units, 1):
        kept = [f for f in features.features if _unit(f, by_modality=by_modality) != unit]
        words = [_word(u) for u in units if u != unit]
        label = "_".join(words)
        if not all(words) or len(label) > 40 or label in taken:
            label = f"subset{number}"
        taken.add(label)
        yield label, [f.name for f in kept]


def _unit(feature: Feature, *, by_modality: bool) -> str:
    return feature.modality if by_modality else feature.name


def _word(unit: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "", unit)
