"""What a plug-in's results depend on, for a stage's spec."""

from __future__ import annotations

from typing import Any

from mer_ray.pretrained.plugin import Plugin


def plugin_spec(name: str, plugin: Plugin) -> dict[str, Any]:
    """Name, version, the options with their defaults, and identity of the weights: JSON-able."""
    return {"name": name, "version": plugin.version, "options": plugin.spec_options, "identity": plugin.identity}
