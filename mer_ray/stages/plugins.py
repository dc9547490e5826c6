"""What stages do with plug-ins: build them where their worker's resources are, say what their results depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mer_ray import registry
from mer_ray.pretrained.plugin import Plugin


def build(kind: str, name: str, options: Mapping[str, Any], gpus: float) -> Any:  # noqa: ANN401 - of any kind
    """The plug-in; one with a model runs on a GPU where its worker has one, else on the CPU, unless told otherwise.

    Raises:
        ConfigError, PluginError: see ``registry.build``.
    """
    has_device = "device" in registry.find(kind, name).Config.model_fields
    placed = {"device": "cuda" if gpus else "cpu"} if has_device else {}
    return registry.build(kind, name, placed | dict(options))


def plugin_spec(name: str, plugin: Plugin) -> dict[str, Any]:
    """Name, version, the options that the result depends on, and identity of the weights: JSON-able."""
    return {"name": name, "version": plugin.version, "options": plugin.spec_options, "identity": plugin.identity}
