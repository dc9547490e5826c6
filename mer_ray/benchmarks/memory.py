"""What the large encoders would need to be trained whole: DeepSpeed's estimates, before a GPU is paid for.

JSON, under ``models.<model>``: ``parameters``, and under ``needs`` a row for each stage of ZeRO, with and without
offload, and number of GPUs in one host: ``gpu_bytes`` of each GPU and ``host_bytes``. They count half-precision weights
and gradients and Adam's state of every parameter; what a batch needs comes on top. What does not train needs its
weights alone: 2 bytes a parameter, divided by the GPUs under stage 3.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from rich.console import Console

from mer_ray import registry
from mer_ray.benchmarks.harness import table
from mer_ray.config import Section
from mer_ray.errors import ConfigError
from mer_ray.train import memory

_MODELS = {
    "internvit-6b-448px": "internvit",
    "qwen2-audio-7b": "joint_audio_text",
    "llama-2-13b": "text_llm",
}


class Config(Section):
    """Which models on how many GPUs."""

    models: dict[str, str] = Field(_MODELS, min_length=1, description="architectures, each with its encoder plug-in")
    gpus: list[int] = Field([1, 2, 4, 8], min_length=1, description="GPUs of one host")


def run(settings: Config, console: Console) -> dict[str, Any]:
    """Estimate; prints a table for each model.

    Raises:
        ConfigError, PluginError: an unknown plug-in or architecture.
    """
    return {"models": {name: _needs(name, plugin, settings, console) for name, plugin in settings.models.items()}}


def _needs(name: str, plugin: str, settings: Config, console: Console) -> dict[str, Any]:
    architectures = registry.find("encoders", plugin).ARCHITECTURES
    if name not in architectures:
        raise ConfigError(f"models.{name}: {plugin} knows {', '.join(sorted(architectures))}")
    encoder = registry.build("encoders", plugin, {"weights": {"source": f"random:{name}"}})
    size = memory.size(encoder.empty)
    rows = []
    for stage in (2, 3):
        for offload in (False, True):
            needs = [memory.need(size, stage, gpus, offload) for gpus in settings.gpus]
            rows.append((stage, offload, needs))
    told = [
        [f"ZeRO {stage}" + (", offload" if offload else ""), *(f"{need.gpu / 2**30:.0f}" for need in needs)]
        for stage, offload, needs in rows
    ]
    heads = ["GiB of each GPU", *(f"{gpus} GPUs" if gpus > 1 else "1 GPU" for gpus in settings.gpus)]
    table(console, f"{name}: {size.parameters / 1e9:.1f} G parameters", heads, told)
    return {
        "parameters": size.parameters,
        "needs": [
            {"stage": stage, "offload": offload, "gpus": gpus, "gpu_bytes": need.gpu, "host_bytes": need.host}
            for stage, offload, needs in rows
            for gpus, need in zip(settings.gpus, needs, strict=True)
        ],
    }
