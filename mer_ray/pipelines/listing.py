"""The encoders there are, for ``jobs/extract.py --list``: what they read, how wide they are, and on which terms."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mer_ray import registry
from mer_ray.encoders.base import Encoder
from mer_ray.errors import MerRayError, PluginError
from mer_ray.pretrained.weights import RANDOM

if TYPE_CHECKING:  # light encoders are listed without the seconds that torch takes
    from mer_ray.pretrained.architecture import Architecture

_UNKNOWN = "by options"
_PLAIN_WIDTH = 160


@dataclass(frozen=True)
class Model:
    """A published model that an encoder runs.

    Attributes:
        name: of the architecture; ``weights.source=random:NAME`` builds it.
        num_parameters: of the part that runs, as published.
        hub: where weights are published.
        licence: of those weights.
        dim: width of a frame's features with the encoder's default options.
    """

    name: str
    num_parameters: float
    hub: str
    licence: str
    dim: str


@dataclass(frozen=True)
class Listed:
    """An encoder plug-in.

    Attributes:
        name: the plug-in's.
        modality: what its features listen to.
        reads: the tables that it reads.
        dim: width of a frame's features, or what decides it.
        licence: of its code and data; weights have their own.
        note: what it is, in a sentence; or why it cannot be used here.
        models: the published models that it runs.
    """

    name: str
    modality: str
    reads: str
    dim: str
    licence: str
    note: str
    models: tuple[Model, ...] = ()


def encoders() -> Iterator[Listed]:
    """Every encoder plug-in; one that lacks a library says so in its note."""
    for name in registry.names("encoders"):
        try:
            yield _listed(name)
        except PluginError as error:
            yield Listed(name, "", "", "", "", str(error))


def show(console: Console) -> None:
    """Print the encoders, and the published models of those with weights."""
    listed = list(encoders())
    plugins = _table("Encoders: encoders.NAME.plugin", "encoder", "modality", "reads", "width", "licence", "note")
    for one in listed:
        plugins.add_row(one.name, one.modality, one.reads, one.dim, one.licence, one.note)
    models = _table("Published models", "encoder", "model", "parameters", "width", "weights on the hub", "licence")
    for one in listed:
        for model in one.models:
            size = _size(model.num_parameters)
            models.add_row(one.name, model.name, size, model.dim, model.hub, model.licence)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    console.print(plugins)
    console.print()
    console.print(models)
    told = "Widths are of frames, with default options; pooling mean_std doubles them. See docs/encoders.md."
    console.print(f"\n{told}", soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _listed(name: str) -> Listed:
    plugin = registry.find("encoders", name)
    kind: type[Encoder] = plugin.Encoder
    architectures: Mapping[str, Architecture] = getattr(kind, "architectures", {})
    models = tuple(_model(name, key, published) for key, published in architectures.items())
    return Listed(
        name=name,
        modality=str(getattr(kind, "modality", _UNKNOWN)),
        reads=_reads(kind),
        dim="by model" if models else _dim(name, {}),
        licence=kind.licence,
        note=(inspect.getdoc(plugin) or "").partition("\n")[0],
        models=models,
    )


def _model(name: str, key: str, published: Architecture) -> Model:
    dim = _dim(name, {"weights": {"source": f"{RANDOM}{key}"}, "device": "cpu"})
    return Model(key, published.num_parameters, published.hub, published.licence, dim)


def _dim(name: str, options: Mapping[str, Any]) -> str:
    """The width that an encoder says it has; options may be needed to know it."""
    try:
        return str(registry.build("encoders", name, options).dim)
    except MerRayError:
        return _UNKNOWN


def _reads(kind: type[Encoder]) -> str:
    """The tables read; an encoder that wraps another decides by its options."""
    reads = getattr(kind, "reads", _UNKNOWN)
    return ", ".join(reads) if isinstance(reads, tuple) else _UNKNOWN


def _size(num_parameters: float) -> str:
    return f"{num_parameters / 1e9:.3g} G" if num_parameters >= 1e9 else f"{num_parameters / 1e6:.3g} M"
