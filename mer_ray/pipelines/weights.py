"""``jobs/weights.py convert``: a checkpoint published as a pickle becomes a folder that a plug-in loads."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors import safe_open
from torch import nn

from mer_ray import config, registry
from mer_ray.config import Section
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pipelines import command
from mer_ray.pretrained import checkpoint, unpickle
from mer_ray.pretrained.network import NetworkModel
from mer_ray.pretrained.weights import RANDOM

_USAGE = "usage: .venv/bin/python jobs/weights.py convert SOURCE DIR plugin=NAME [config=FILE]"
_OPTIONS = {
    "separators": "denoise.separator",
    "recognisers": "transcribe.recogniser",
    "punctuators": "transcribe.punctuator",
}
"""Kinds of plug-ins that load such a folder, and the option that names one."""


class Config(Section):
    """What the checkpoint is of."""

    plugin: str = Field(
        description="that is to load it: mossformer2 | convtasnet | sensevoice | paraformer | ct_transformer"
    )
    config: str | None = Field(
        None,
        description="JSON of the network's arguments; unset, those of the published one, or of config.yaml beside it",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/weights.py convert SOURCE DIR plugin=NAME [config=FILE]``; the exit code as of the other jobs."""
    parser = argparse.ArgumentParser(prog="jobs/weights.py", add_help=False)
    parser.add_argument("action", nargs="?", choices=["convert"])
    parser.add_argument("source", nargs="?")
    parser.add_argument("folder", nargs="?", metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("-h", "--help", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    if options.help or options.folder is None:
        _help(console)
        return 0 if options.help else 2

    def act() -> int:
        settings = config.load(Config, None, options.overrides)
        count = convert(Path(options.source), Path(options.folder), settings)
        console.print(
            f"{escape(options.folder)}: {count / 1e6:.1f} million parameters of {settings.plugin}; use it by "
            f"{_OPTIONS[_kind(settings.plugin)]}="
            f"{{name: {settings.plugin}, options: {{weights: {{source: {escape(options.folder)}}}}}}}"
        )
        return 0

    return command.guarded(act)


def convert(source: Path, folder: Path, settings: Config) -> int:
    """Write ``config.json`` and ``model.safetensors`` of a pickle into a folder; the number of parameters.

    What the plug-in needs beside them is copied from beside the pickle, which is read in a process without network and
    stays as it is. Nothing is left of what is refused.

    Raises:
        ConfigError: the folder holds weights already.
        PluginError: the plug-in has no such weights, the file is not what the plug-in loads, or one is missing beside
            it; the message names tensors or the file.
    """
    plugin = _plugin(settings.plugin)
    arguments = _arguments(source, settings, plugin)
    with torch.device("meta"):
        model = _network(settings, plugin, arguments)
    others = [_beside(source, names) for names in plugin.beside]
    files = (checkpoint.CONFIG, checkpoint.WEIGHTS, *(other.name for other in others))
    if there := [name for name in files if (folder / name).exists()]:
        raise ConfigError(f"{folder} holds {', '.join(there)} already; give another folder")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".converting-") as beside:
        raw = Path(beside) / "raw.safetensors"
        unpickle.tensors_of(source, raw)
        with safe_open(raw, "pt") as opened:
            names = [name for name in opened.keys() if not name.startswith(plugin.unread)]  # noqa: SIM118 - no mapping
            tensors = {name: opened.get_tensor(name) for name in names}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        checkpoint.check(model, shapes, str(source))
        checkpoint.write(Path(beside), arguments, tensors)
        for other in others:
            shutil.copy(other, beside)
        folder.mkdir(exist_ok=True)
        for name in files:
            (Path(beside) / name).replace(folder / name)
    return sum(parameter.numel() for parameter in model.parameters())


def _kind(name: str) -> str:
    """The kind of a plug-in of that name; the first of them where there is none."""
    return next((kind for kind in _OPTIONS if name in registry.names(kind)), next(iter(_OPTIONS)))


def _plugin(name: str) -> NetworkModel:
    kind = _kind(name)
    module = registry.find(kind, name)
    if not issubclass(getattr(module, registry.KINDS[kind]), NetworkModel):
        raise PluginError(f"plugin={name}: it loads no checkpoint of its own")
    source = f"{RANDOM}{next(iter(module.ARCHITECTURES))}"
    plugin: NetworkModel = registry.build(kind, name, {"weights": {"source": source}})
    return plugin


def _arguments(source: Path, settings: Config, plugin: NetworkModel) -> dict[str, Any]:
    if settings.config is not None:
        return checkpoint.read_arguments(Path(settings.config), f"config={settings.config}")
    return plugin.published(source.parent)


def _network(settings: Config, plugin: NetworkModel, arguments: dict[str, Any]) -> nn.Module:
    try:
        return plugin.network(arguments)
    except (TypeError, ValueError) as error:
        where = "what lies beside it" if settings.config is None else f"config={settings.config}"
        raise PluginError(f"{where}: these are not arguments of {settings.plugin}: {error}") from error


def _beside(source: Path, names: Sequence[str]) -> Path:
    """The first file of these names that is there."""
    found = [file for file in (source.parent / name for name in names) if file.is_file()]
    if not found:
        raise PluginError(f"{source}: there is no {' or '.join(names)} beside it, which belongs to the weights")
    return found[0]


def _help(console: Console) -> None:
    console.print(f"{_USAGE}\n\n{__doc__}\n", markup=False)
    grid = Table(box=None, pad_edge=False)
    for column in ("key", "default", "meaning"):
        grid.add_column(column, overflow="fold")
    for row in config.describe(Config):
        grid.add_row(*map(escape, row))
    console.print(grid)
