"""What a search varies: keys of the config, and the values that each may take.

Beside keys of ``fit`` and ``mining`` these are keys of listed learners, found by their names:
``learners.<name>.model.options.<option>`` and ``learners.<name>.teacher_weight``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mer_ray import registry
from mer_ray.config import MineConfig
from mer_ray.errors import ConfigError
from mer_ray.learners import spec
from mer_ray.tune import candidates
from mer_ray.tune.candidates import AUTO

STRATEGY = "mining.strategy"
_OPTIONS = "mining.options."
_LEARNERS = "learners."
_MODEL = "model.options."
_TAUGHT = "teacher_weight"
_SEARCHED = re.compile(r"fit\.|mining\.|learners\.[^.]+\.(model\.options\.|teacher_weight$)")
_SAME_FOR_ALL = ("fit.folds", "mining.rounds", "mining.include_test", "mining.on_failure")
_SPAN = {"low", "high", "log"}

NETWORK: Mapping[str, Any] = {"fit.dropout": [0.0, 0.6], "fit.modality_dropout": [0.0, 0.6]}
"""What is searched where a learner is a network, unless the config says otherwise, key by key."""

POOL: Mapping[str, Any] = {
    "shrink": [0.1, 0.9],
    "pool_weight": {"low": 0.02, "high": 1.0, "log": True},
    _TAUGHT: {"low": 0.05, "high": 1.0, "log": True},
}
"""What is searched of learners that read the pool, and of their students, by ``auto`` or listed."""

DEFAULT: Mapping[str, Any] = {
    "mining.options.min_share": [0.5, 1.0],
    "mining.options.min_agree": 1,
    "mining.options.min_probability": [0.0, 0.9],
    "mining.options.k": {"low": 5, "high": 100, "log": True},
    **{f"{_OPTIONS}{name}": values for name, values in POOL.items()},
}
"""What is searched of the strategy that has it."""


class Draws(Protocol):
    """What a dimension is drawn from: an Optuna trial."""

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:  # noqa: ANN401 - one of them
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        """A whole number from low to high, both included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number from low to high."""


@dataclass(frozen=True)
class Dimension:
    """One key and its values: ``choices``, or everything from ``low`` to ``high``, both included.

    Attributes:
        key: of the config, as ``fit.dropout``.
        choices: none for a span.
        low, high: whole numbers when only such are drawn.
        log: whether the span is drawn from by its logarithm.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def draw(self, trial: Draws) -> Any:  # noqa: ANN401 - whatever the key takes
        """A value, as the trial suggests."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:  # noqa: ANN401 - whatever the key takes
        """Whether a value may be drawn."""
        if self.choices:
            return value in self.choices
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return _is_number(value) and self.low <= value <= self.high and (isinstance(value, int) or not whole)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every choice, or both ends of the span."""
        return self.choices or (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """All dimensions; an option of the strategy is drawn only for a strategy that has it.

    Attributes:
        dimensions: the strategy first.
        strategy: the strategy of every trial when it is not searched.
        makes_own: whether ``auto`` makes the learners that read the pool, so that it has options.
    """

    dimensions: tuple[Dimension, ...]
    strategy: str
    makes_own: bool = True

    def draw(self, trial: Draws) -> None:
        """Draw every dimension that applies."""
        strategy = self.strategy
        for dimension in self.dimensions:
            if self.applies(dimension.key, strategy):
                value = dimension.draw(trial)
                strategy = value if dimension.key == STRATEGY else strategy

    def given(self, settings: MineConfig) -> dict[str, Any]:
        """The value that a config has of every dimension that applies to its own strategy."""
        tree, strategy = settings.model_dump(), settings.mining.strategy
        keys = [one.key for one in self.dimensions if self.applies(one.key, strategy)]
        return {key: _value(tree, key, strategy) for key in keys}

    def holding(self, given: Mapping[str, Any]) -> Space:
        """The dimensions that the values of a config lie in."""
        own = tuple(one for one in self.dimensions if one.key in given and one.holds(given[one.key]))
        return Space(own, self.strategy, self.makes_own)

    def applies(self, key: str, strategy: str) -> bool:
        """Whether a strategy has the key."""
        return not key.startswith(_OPTIONS) or key.removeprefix(_OPTIONS) in _options(
            strategy, makes_own=self.makes_own
        )

    @property
    def strategies(self) -> tuple[str, ...]:
        """Every strategy that a trial may have."""
        return next((one.choices for one in self.dimensions if one.key == STRATEGY), (self.strategy,))


def make(settings: MineConfig, given: Mapping[str, Any]) -> Space:
    """The space of a search: the defaults, and what the user gives in their place; its ends are tried on the config.

    Args:
        settings: what all trials share.
        given: nested or dotted keys; two numbers are a span, any other list its choices, ``{low, high, log}`` a span,
            ``{choices}`` choices, a single value fixes the key, and null leaves it as ``settings`` has it.

    Raises:
        ConfigError: a key is unknown or cannot be searched, or a value is not one that it takes.
        PluginError: an unknown strategy.
    """
    own = dict(_flatten(given, ""))
    known = {key: value for key, value in {**_of_learners(settings), **DEFAULT, **own}.items() if value is not None}
    dimensions = sorted((_dimension(key, value) for key, value in known.items()), key=lambda one: one.key != STRATEGY)
    space = Space(tuple(dimensions), settings.mining.strategy, candidates.makes_own(settings.learners))
    for name in space.strategies:
        _options(name, makes_own=space.makes_own)
    used = []
    for dimension in space.dimensions:
        fitting = [name for name in space.strategies if space.applies(dimension.key, name)]
        if not fitting and dimension.key not in own:
            continue
        used.append(dimension)
        for end in dimension.ends:
            apply(settings, {STRATEGY: (fitting or space.strategies)[0], dimension.key: end})
    return Space(tuple(used), space.strategy, space.makes_own)


def apply(settings: MineConfig, values: Mapping[str, Any]) -> MineConfig:
    """The config of one trial: ``settings`` with ``values`` by dotted keys.

    Options of the strategy that a trial's own strategy does not have are left out; those among ``values`` must fit.
    What holds without being said stays unsaid: with its own values a config is as it was.

    Raises:
        ConfigError: a key is unknown, or does not take its value.
        PluginError: an unknown strategy.
    """
    tree = {name: value for name, value in settings.model_dump().items() if name in MineConfig.model_fields}
    strategy, makes_own = values.get(STRATEGY, settings.mining.strategy), candidates.makes_own(settings.learners)
    options, known = tree["mining"]["options"], _options(strategy, makes_own=makes_own)
    tree["mining"]["options"] = {key: value for key, value in options.items() if key in known}
    for key, value in values.items():
        node, last = _place(tree, key)
        if last in node or last not in _unsaid(tree, key, strategy) or _value(tree, key, strategy) != value:
            node[last] = value
    try:
        made = MineConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("search.space: " + "; ".join(registry.explain(error, MineConfig, ""))) from error
    candidates.configure(made.mining, made.learners)
    if made.learners != "auto":
        spec.check(made.learners, made.fit)
    return made


def _of_learners(settings: MineConfig) -> dict[str, Any]:
    """What is searched of the learners that there are; those that ``auto`` makes are told of by its options."""
    if settings.learners == "auto":
        return dict(NETWORK)
    found: dict[str, Any] = {}
    for learner in settings.learners:
        found |= NETWORK if learner.model.name == spec.NETWORK else {}
        if spec.reads_pool(learner):
            options = _fields("classifiers", learner.model.name)
            found |= {f"{_LEARNERS}{learner.name}.{_MODEL}{name}": POOL[name] for name in POOL if name in options}
        if learner.teacher is not None:
            found[f"{_LEARNERS}{learner.name}.{_TAUGHT}"] = POOL[_TAUGHT]
    return found


def _options(strategy: str, *, makes_own: bool) -> Mapping[str, FieldInfo]:
    """The fields of ``mining.options``; ``auto`` has them where it makes the learners that read the pool."""
    if strategy == AUTO:
        return candidates.Options.model_fields if makes_own else {}
    return _fields("mining", strategy)


def _unsaid(tree: Mapping[str, Any], key: str, strategy: str) -> Mapping[str, FieldInfo]:
    """The fields that hold where a config does not name them: options of the strategy and of a listed learner."""
    if key.startswith(_OPTIONS):
        return _options(strategy, makes_own=True)
    if key.startswith(_LEARNERS) and _MODEL in key:
        model, _ = _place(tree, key.partition(f".{_MODEL}")[0] + ".model.name")
        return {} if model["name"] == spec.NETWORK else _fields("classifiers", model["name"])
    return {}


def _fields(kind: str, name: str) -> Mapping[str, FieldInfo]:
    """The fields of a plug-in's ``Config``."""
    fields: Mapping[str, FieldInfo] = registry.find(kind, name).Config.model_fields
    return fields


def _value(tree: Mapping[str, Any], key: str, strategy: str) -> Any:  # noqa: ANN401 - whatever the key takes
    """What a config has of a key."""
    node, last = _place(tree, key)
    return node[last] if last in node else _unsaid(tree, key, strategy)[last].get_default(call_default_factory=True)


def _place(tree: Mapping[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a key, and the last part of the key; a listed learner is found by its name.

    Raises:
        ConfigError: no learner of this name is listed.
    """
    *parents, last = key.split(".")
    node: Any = tree
    for number, parent in enumerate(parents):
        if number == 1 and parents[0] == "learners":
            listed = {} if node == "auto" else {learner["name"]: learner for learner in node}
            if parent not in listed:
                raise ConfigError(
                    f"search.space.{key}: no learner {parent!r} is listed; there are: {', '.join(listed) or 'none'}"
                )
            node = listed[parent]
        else:
            node = node.setdefault(parent, {})
    return node, last


def _flatten(given: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and not value.keys() <= _SPAN | {"choices"}:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _dimension(key: str, value: Any) -> Dimension:  # noqa: ANN401 - what YAML gives
    if not _SEARCHED.match(key) or key in _SAME_FOR_ALL:
        raise ConfigError(
            f"search.space.{key}: only keys of fit and mining and a listed learner's teacher_weight and model.options "
            f"are searched, without {', '.join(_SAME_FOR_ALL)}, which must be the same for all trials to be compared"
        )
    if not isinstance(value, Mapping | list):
        return Dimension(key, (value,))
    if isinstance(value, list) and not (len(value) == 2 and all(_is_number(end) for end in value)):
        span: Mapping[str, Any] = {"choices": value}
    else:
        span = value if isinstance(value, Mapping) else {"low": value[0], "high": value[1]}
    if set(span) == {"choices"} and isinstance(span["choices"], list) and span["choices"]:
        return Dimension(key, tuple(span["choices"]))
    low, high, log = span.get("low"), span.get("high"), span.get("log", False)
    if not _is_number(low) or not _is_number(high) or not isinstance(log, bool) or not set(span) <= _SPAN:
        told = "neither [low, high], a list of choices, nor {low, high, log}"
        raise ConfigError(f"search.space.{key}: {value!r} is {told}")
    if low >= high or (log and low <= 0):
        raise ConfigError(f"search.space.{key}: {value!r} must go from a lower to a higher number, with log above 0")
    return Dimension(key, low=low, high=high, log=log)


def _is_number(value: Any) -> TypeGuard[float]:  # noqa: ANN401 - what YAML gives
    return isinstance(value, int | float) and not isinstance(value, bool)
