"""A config from YAML files and ``key.sub=value`` overrides; its digest; its keys as a text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mer_ray.config.sections import JobConfig, PluginConfig, Section
from mer_ray.errors import ConfigError
from mer_ray.registry import explain

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "jobs" / "configs"

T = TypeVar("T", bound=Section)


def load(model: type[T], files: str | Path | Sequence[str] | None, overrides: Sequence[str] = ()) -> T:
    """Read YAML files, apply ``key.sub=value`` overrides (values are YAML), and validate.

    A relative file that does not exist where the user stands is looked for from the repository. Its sections that are
    another job's alone are passed over, so that jobs can share it. Of several files a later one adds to the earlier
    ones, and wins where both have a key.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest one is named), or a bad value.
    """
    others = {key for job in _jobs(JobConfig) for key in job.model_fields} - set(model.model_fields)
    tree: dict[str, Any] = {}
    for file in [files] if isinstance(files, str | Path) else files or ():
        read = _read(file) if file else {}
        tree = _joined(tree, {key: value for key, value in read.items() if key not in others})
    for override in overrides:
        _apply(tree, override)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, model, ""))) from error


def digest(value: BaseModel | dict[str, Any] | list[Any]) -> str:
    """Sixteen hex digits that change when any part of ``value`` changes.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every key of a config with its default, on one line, and its meaning: for ``--help`` and the docs."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section) and inner is not PluginConfig:
            yield from describe(inner, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            shown = default.name if isinstance(default, PluginConfig) else default
            told = "" if field.is_required() else str(shown).replace("\n", r"\n")
            yield f"{prefix}{name}", told, field.description or ""


def _jobs(model: type[JobConfig]) -> Iterator[type[JobConfig]]:
    """The config of every job that is told what ``model`` is, and more."""
    for job in model.__subclasses__():
        yield job
        yield from _jobs(job)


def _read(file: str | Path) -> dict[str, Any]:
    path = Path(file)
    if not path.exists() and not path.is_absolute():
        path = next((p for p in (REPOSITORY / path, CONFIGS / path) if p.exists()), path)
    try:
        tree = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        shipped = ", ".join(sorted(p.name for p in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"config file {file} does not exist; shipped ones in jobs/configs: {shipped}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"config file {path} cannot be read as YAML: {error}") from error
    if not isinstance(tree, dict | type(None)):
        raise ConfigError(f"config file {path} must hold keys and values, not {type(tree).__name__}")
    return tree or {}


def _parsed(text: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    """What a YAML text says.

    Raises:
        ValueError: it is no YAML, or one that PyYAML cannot make values of: a day or number that there is not, nesting
            without end (it lets those errors through as they are); or half a character, which nothing can write.
    """
    try:
        value = yaml.safe_load(text)
        json.dumps(value, ensure_ascii=False, default=str).encode()
        return value
    except (yaml.YAMLError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _joined(tree: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both, key by key at every depth; ``more`` wins.

    >>> _joined({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    both = {key: _joined(tree[key], more[key]) for key in tree if _is_tree(tree, key) and _is_tree(more, key)}
    return tree | more | both


def _is_tree(tree: dict[str, Any], key: str) -> bool:
    return isinstance(tree.get(key), dict)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form key.sub=value")
    try:
        value = _parsed(text)
    except ValueError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from error
    *parents, last = key.split(".")
    for parent in parents:
        inner = tree.get(parent)
        tree[parent] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[parent]
    tree[last] = value
