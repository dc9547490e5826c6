"""What a plug-in's results depend on, for a stage's spec."""

from __future__ import annotations

from typing import Any

from mer_ray.detectors.base import Detector
from mer_ray.encoders.base import Encoder
from mer_ray.recognisers.base import Recogniser
from mer_ray.separators.base import Separator


def plugin_spec(name: str, plugin: Detector | Encoder | Recogniser | Separator) -> dict[str, Any]:
    """Name, version, all options with their defaults, and identity of the weights: JSON-able."""
    return {
        "name": name,
        "version": plugin.version,
        "options": plugin.spec_options if isinstance(plugin, Encoder) else plugin.config.model_dump(mode="json"),
        "identity": plugin.identity,
    }
