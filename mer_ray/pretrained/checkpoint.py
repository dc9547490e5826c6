"""Checkpoints of models that are no library's: a constructor's arguments as ``config.json``, ``model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mer_ray.errors import PluginError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_MOST_NAMED = 3


@dataclass(frozen=True)
class Checkpoint:
    """A model and the arguments that it was built with."""

    config: Mapping[str, Any]
    model: nn.Module

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both files into a folder that is there."""
        write(Path(folder), self.config, self.model.state_dict())


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, folder / WEIGHTS, metadata={"format": "pt"})


def read_config(folder: Path, source: str) -> dict[str, Any]:
    """The constructor's arguments.

    Raises:
        PluginError: there is no ``config.json``, or it holds something else.
    """
    return read_arguments(folder / CONFIG, f"weights {source}")


def read_arguments(file: Path, told: str) -> dict[str, Any]:
    """A JSON file of a constructor's arguments.

    Raises:
        PluginError: there is none, or it holds something else; the message begins with ``told``.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(f"{told}: {file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise PluginError(f"{told}: {file} holds no arguments but a {type(config).__name__}")
    return config


def load(build: Callable[[], nn.Module], folder: Path, source: str) -> nn.Module:
    """The model that ``build`` makes, with the folder's tensors: every one of the model's, and no other.

    Args:
        build: makes the model; called where that takes no memory.
        folder: of ``weights.fetch``.
        source: the folder as the user knows it.

    Raises:
        PluginError: the file is damaged or is of another model; the message names tensors.
    """
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise PluginError(f"weights {source}: {folder / WEIGHTS} cannot be read: {error}") from error
    with torch.device("meta"):
        model = build()
    check(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, f"weights {source}")
    model.load_state_dict(tensors, strict=True, assign=True)
    return model


def check(model: nn.Module, shapes: Mapping[str, Sequence[int]], told: str) -> None:
    """Hold tensors, by name and shape, to those of a model.

    Raises:
        PluginError: one is missing, of another shape, or not the model's; the message begins with ``told``.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    faults = {
        "missing": sorted(wanted.keys() - shapes.keys()),
        "not of this model": sorted(shapes.keys() - wanted.keys()),
        "of another shape": sorted(
            f"{name} {tuple(shapes[name])} for {wanted[name]}"
            for name in wanted.keys() & shapes.keys()
            if tuple(shapes[name]) != wanted[name]
        ),
    }
    listed = [
        f"{len(names)} {what}: {', '.join(names[:_MOST_NAMED])}{', ...' if len(names) > _MOST_NAMED else ''}"
        for what, names in faults.items()
        if names
    ]
    if listed:
        kind = type(model).__name__
        raise PluginError(f"{told}: these are weights of another model than this {kind}; tensors {'; '.join(listed)}")
