"""What a training step of a large encoder costs on this device: random weights, noise for clips, no workers.

Plain PyTorch: neither Ray nor DeepSpeed is needed.

JSON, under ``tasks.<case>``: ``clips_per_s`` and, of what the model reads, ``images_per_s``, ``tokens_per_s`` or
``sound_seconds_per_s``, medians over the steps; ``model_flops_per_s``, counted in one step, forward and backward, and
``matrix_rate_share``, that by the device's rate for large matrices; ``trained`` and ``parameters``; ``peak_bytes`` of
the device's memory, on CUDA; ``clips`` of a step and ``precision``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from mer_ray import registry
from mer_ray.benchmarks.harness import matrix_rate, median, table, timed
from mer_ray.config import PluginConfig, Section
from mer_ray.encoders.base import ClipInput
from mer_ray.pretrained import forward, tuning
from mer_ray.tasks.base import Batch, Task, to
from mer_ray.types import SAMPLE_RATE_HZ

_CLASSES = ("neutral", "anger", "happiness", "sadness", "worry", "surprise")


def _case(task: str, plugin: str, weights: str, **options: object) -> PluginConfig:
    encoder = {"plugin": plugin, "options": {"weights": {"source": f"random:{weights}"}}}
    return PluginConfig(name=task, options={"encoder": encoder, **options})


_TASKS = {
    "hubert-large, adapters": _case("speech_adapters", "hubert", "chinese-hubert-large"),
    "internvit-6b, projector": _case("internvit_finetune", "internvit", "internvit-6b-224px", frames=4),
    "qwen2-audio-7b, lora": _case("joint_audio_text", "joint_audio_text", "qwen2-audio-7b", tuning={"how": "lora"}),
}


class Config(Section):
    """Which tasks, and the clips of a step."""

    tasks: dict[str, PluginConfig] = Field(_TASKS, min_length=1, description="cases: each a task with its options")
    clips: int = Field(16, ge=1, description="clips of a step")
    seconds: float = Field(5.0, gt=0, description="sound of a clip")
    steps: int = Field(10, ge=1, description="steps that are timed, behind two that are not")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of what does not train, and of the arithmetic")
    checkpoint_activations: bool = Field(False, description="run layers again in the backward")


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure; prints a table of all cases so far as each is done.

    Raises:
        ConfigError, PluginError: an unknown task or option.
    """
    device = forward.pick_device(settings.device)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    rate = matrix_rate(device, dtype)
    figures: dict[str, Any] = {}
    for name, wanted in settings.tasks.items():
        task: Task = registry.build("tasks", wanted.name, wanted.options, class_names=_CLASSES)
        figures[name] = _measure(task, settings, device, dtype) | {"precision": settings.precision}
        figures[name]["matrix_rate_share"] = figures[name]["model_flops_per_s"] / rate
        _print(figures, console)
        yield {"tasks": figures, "device": device, "matrix_rate": rate}


def _measure(task: Task, settings: Config, device: str, dtype: torch.dtype) -> dict[str, Any]:
    torch.manual_seed(0)
    network = task.build()
    for parameter in network.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    network.to(device).train()
    if settings.checkpoint_activations:
        tuning.recompute(network)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    batch = to(_batch(task, settings), torch.device(device))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = network(batch).loss
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = median([timed(step, device) for _ in range(settings.steps)])
    read = {name: count / seconds for name, count in _read(task, batch, settings).items()}
    peak = {"peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}
    return {
        "clips": settings.clips,
        "clips_per_s": settings.clips / seconds,
        **read,
        "model_flops_per_s": counter.get_total_flops() / seconds,
        "trained": sum(p.numel() for p in trained),
        "parameters": sum(p.numel() for p in network.parameters()),
        **peak,
    }


def _batch(task: Task, settings: Config) -> Batch:
    """Noise for sounds and faces; nothing is learnt of them."""
    rng = np.random.default_rng(0)
    samples = int(settings.seconds * SAMPLE_RATE_HZ)
    clips = [
        ClipInput(
            audio=rng.uniform(-0.5, 0.5, samples).astype(np.float32),
            faces=rng.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8),
            face_times=np.arange(8, dtype=np.float32) / np.float32(5),
            text="I really did not expect that to happen, not today.",
        )
        for _ in range(settings.clips)
    ]
    label = np.arange(settings.clips) % len(_CLASSES)
    return task.collate(clips, label, [np.random.default_rng(i) for i in range(settings.clips)])


def _read(task: Task, batch: Batch, settings: Config) -> dict[str, float]:
    """How much of what the model reads there is in the batch."""
    if "faces" in task.reads:
        return {"images_per_s": float(settings.clips * batch.get("each", 1))}
    if "transcript" in task.reads:
        return {"tokens_per_s": float(sum(inputs["input_ids"].numel() for inputs in batch["inputs"]))}
    return {"sound_seconds_per_s": settings.clips * settings.seconds}


def _print(figures: dict[str, Any], console: Console) -> None:
    rows = [
        [name, one["clips_per_s"], one["model_flops_per_s"] / 1e12, one["matrix_rate_share"], f"{one['trained']:,}"]
        for name, one in figures.items()
    ]
    table(console, "training steps", ["task", "clips/s", "TFLOP/s", "of the matrix rate", "trained"], rows)
