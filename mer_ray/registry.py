"""Find plug-ins: ``find("encoders", "hubert")`` is the module ``mer_ray/encoders/hubert.py``.

A plug-in is one file in its kind's folder with a ``Config`` (frozen pydantic model) and the class that the kind
names in ``KINDS``; the class is built from a ``Config``. A plug-in with weights also has ``tiny()``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from mer_ray.errors import ConfigError, PluginError

KINDS = {
    "separators": "Separator",
    "recognisers": "Recogniser",
    "punctuators": "Punctuator",
    "detectors": "Detector",
    "encoders": "Encoder",
    "fusion": "Model",
    "classifiers": "Classifier",
    "mining": "Strategy",
    "tasks": "Task",
}
"""Each kind of plug-in and the name of the class that every file of the kind defines."""

REMOVED = {
    **{f"mining.{name}": "strategies are vote and topk" for name in ("adaptive", "soft", "threshold", "vote_topk")},
    "mining.topk.share": "give mining.options.k, clips of each class a round",
    "mining.topk.share_rounds": "give mining.options.k, clips of each class a round",
    "mining.topk.growth": "mining.options.k is the same in every round",
    "mining.split": "give mining.options.split",
    "mining.relabel": "give mining.options.relabel",
    "mining.calibrate": "the final votes always are, those that a strategy is given never; leave it out",
    "mining.weigh_learners": "learners count alike; leave it out",
    "mining.rounds_kept": "the last round kept votes; leave it out",
    "mining.weight": "a pseudo-labelled clip counts as a labelled one; leave it out",
    "mining.guard_tolerance": "the guard allows for the noise alone; leave it out, or give mining.guard=false",
    "fit.mixup": "leave it out; fit.dropout and fit.label_smoothing regularise",
    "fit.average": "leave it out; fit.patience keeps the best epoch",
}
"""Keys and plug-ins that earlier versions had, and what to do in place of each."""


def names(kind: str) -> list[str]:
    """The plug-ins of a kind, sorted.

    >>> "attention" in names("fusion")
    True
    """
    package = importlib.import_module(f"mer_ray.{kind}")
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if info.name != "base")


def find(kind: str, name: str) -> ModuleType:
    """The module of a plug-in.

    Raises:
        PluginError: no such plug-in, or a library it needs is not installed.
    """
    known = names(kind)
    if name not in known and (instead := REMOVED.get(f"{kind}.{name}")):
        raise PluginError(f"{kind}: {name!r} is no longer there: {instead}")
    if name not in known:
        raise PluginError(f"{kind}: no plug-in {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
    try:
        return importlib.import_module(f"mer_ray.{kind}.{name}")
    except ImportError as error:
        raise PluginError(f"{kind}.{name} needs a library that is not installed ({error}); pip install it") from error


def configure(kind: str, name: str, options: Mapping[str, Any]) -> BaseModel:
    """The plug-in's ``Config`` made of ``options``.

    Raises:
        PluginError: see ``find``.
        ConfigError: an option is unknown or has a bad value; the message names it.
    """
    config_class: type[BaseModel] = find(kind, name).Config
    try:
        return config_class(**options)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, config_class, f"{kind}.{name}"))) from error


def build(kind: str, name: str, options: Mapping[str, Any] | BaseModel, **more: Any) -> Any:  # noqa: ANN401
    """An instance of the plug-in's class, of its ``Config`` or options for it, and of what ``more`` the kind takes."""
    config = options if isinstance(options, BaseModel) else configure(kind, name, options)
    return getattr(find(kind, name), KINDS[kind])(config, **more)


def explain(error: ValidationError, model: type[BaseModel], where: str) -> list[str]:
    """One line per fault of a pydantic validation, with the nearest known key for an unknown one."""
    lines = []
    for fault in error.errors():
        path = [str(part) for part in fault["loc"]]
        key = ".".join([where, *path]) if where else ".".join(path)
        if fault["type"] == "extra_forbidden" and key in REMOVED:
            lines.append(f"{key} is no longer there: {REMOVED[key]}")
        elif fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{nearest(path[-1], _keys_beside(model, path))}")
        else:
            lines.append(f"{key}: {fault['msg']} (got {fault['input']!r})")
    return lines


def nearest(word: str, known: list[str]) -> str:
    """``"; did you mean 'x'?"`` for the known word most like ``word``, or nothing."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def _keys_beside(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that are known where the last part of ``path`` stands."""
    for part in path[:-1]:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
