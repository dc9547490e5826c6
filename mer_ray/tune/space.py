"""What a search varies: keys of the config, and the values that each may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, TypeGuard

from pydantic import ValidationError

from mer_ray import registry
from mer_ray.config import MineConfig
from mer_ray.errors import ConfigError

STRATEGY = "mining.strategy"
_OPTIONS = "mining.options."
_SAME_FOR_ALL = ("fit.folds", "mining.rounds", "mining.include_test", "mining.on_failure")
_SPAN = {"low", "high", "log"}

DEFAULT: Mapping[str, Any] = {
    "fit.dropout": [0.0, 0.6],
    "fit.modality_dropout": [0.0, 0.6],
    "mining.options.min_share": [0.5, 1.0],
    "mining.options.min_agree": 1,
    "mining.options.min_probability": [0.0, 0.9],
    "mining.options.k": {"low": 5, "high": 100, "log": True},
}
"""What is searched unless the config says otherwise, key by key."""


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
    """

    dimensions: tuple[Dimension, ...]
    strategy: str

    def draw(self, trial: Draws) -> None:
        """Draw every dimension that applies."""
        strategy = self.strategy
        for dimension in self.dimensions:
            if _applies(dimension.key, strategy):
                value = dimension.draw(trial)
                strategy = value if dimension.key == STRATEGY else strategy

    def given(self, settings: MineConfig) -> dict[str, Any]:
        """The value that a config has of every dimension that applies to its own strategy."""
        tree, strategy = settings.model_dump(), settings.mining.strategy
        return {one.key: _value(tree, one.key, strategy) for one in self.dimensions if _applies(one.key, strategy)}

    def holding(self, given: Mapping[str, Any]) -> Space:
        """The dimensions that the values of a config lie in."""
        own = tuple(one for one in self.dimensions if one.key in given and one.holds(given[one.key]))
        return Space(own, self.strategy)

    @property
    def strategies(self) -> tuple[str, ...]:
        """Every strategy that a trial may have."""
        return next((one.choices for one in self.dimensions if one.key == STRATEGY), (self.strategy,))


def make(settings: MineConfig, given: Mapping[str, Any]) -> Space:
    """The space of a search: ``DEFAULT``, and what the user gives in its place; its ends are tried on the config.

    Args:
        settings: what all trials share.
        given: nested or dotted keys; two numbers are a span, any other list its choices, ``{low, high, log}`` a span,
            ``{choices}`` choices, a single value fixes the key, and null leaves it as ``settings`` has it.

    Raises:
        ConfigError: a key is unknown or cannot be searched, or a value is not one that it takes.
        PluginError: an unknown strategy.
    """
    own = dict(_flatten(given, ""))
    known = {key: value for key, value in {**DEFAULT, **own}.items() if value is not None}
    dimensions = sorted((_dimension(key, value) for key, value in known.items()), key=lambda one: one.key != STRATEGY)
    space = Space(tuple(dimensions), settings.mining.strategy)
    for name in space.strategies:
        registry.find("mining", name)
    used = []
    for dimension in space.dimensions:
        fitting = [name for name in space.strategies if _applies(dimension.key, name)]
        if not fitting and dimension.key not in own:
            continue
        used.append(dimension)
        for end in dimension.ends:
            apply(settings, {STRATEGY: (fitting or space.strategies)[0], dimension.key: end})
    return Space(tuple(used), space.strategy)


def apply(settings: MineConfig, values: Mapping[str, Any]) -> MineConfig:
    """The config of one trial: ``settings`` with ``values`` by dotted keys.

    Options of the strategy that a trial's own strategy does not have are left out; those among ``values`` must fit.
    What holds without being said stays unsaid: with its own values a config is as it was.

    Raises:
        ConfigError: a key is unknown, or does not take its value.
        PluginError: an unknown strategy.
    """
    tree = {name: value for name, value in settings.model_dump().items() if name in MineConfig.model_fields}
    strategy = values.get(STRATEGY, settings.mining.strategy)
    fields = registry.find("mining", strategy).Config.model_fields
    options = tree["mining"]["options"]
    tree["mining"]["options"] = {key: value for key, value in options.items() if key in fields}
    for key, value in values.items():
        if key.startswith(_OPTIONS) and _applies(key, strategy) and _value(tree, key, strategy) == value:
            continue
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    try:
        made = MineConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("search.space: " + "; ".join(registry.explain(error, MineConfig, ""))) from error
    registry.configure("mining", strategy, made.mining.options)
    return made


def _value(tree: Mapping[str, Any], key: str, strategy: str) -> Any:  # noqa: ANN401 - whatever the key takes
    """What a config has of a key; an option that it does not name, by the default of the strategy."""
    if key.startswith(_OPTIONS):
        name = key.removeprefix(_OPTIONS)
        field = registry.find("mining", strategy).Config.model_fields[name]
        return tree["mining"]["options"].get(name, field.get_default(call_default_factory=True))
    return reduce(lambda node, part: node[part], key.split("."), tree)


def _applies(key: str, strategy: str) -> bool:
    if not key.startswith(_OPTIONS):
        return True
    fields: dict[str, Any] = registry.find("mining", strategy).Config.model_fields
    return key.removeprefix(_OPTIONS) in fields


def _flatten(given: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and not value.keys() <= _SPAN | {"choices"}:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _dimension(key: str, value: Any) -> Dimension:  # noqa: ANN401 - what YAML gives
    if not key.startswith(("fit.", "mining.")) or key in _SAME_FOR_ALL:
        raise ConfigError(
            f"search.space.{key}: only keys of fit and mining are searched, without {', '.join(_SAME_FOR_ALL)}, which "
            "must be the same for all trials to be compared"
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
