"""Features per second: the bare model, the whole pipeline, and the usual way, side by side in one run.

For each encoder, at full size with random weights, on the same clips (DESIGN section 5):

1. bare: the encoder's own bucketed batches, inputs already in memory, nothing but forwards;
2. pipeline: from mp4 files to a committed table, on Ray (``pipeline=false`` leaves it out, and Ray with it);
3. peer: one clip per forward, float32, all hidden states kept, the last four summed, one ``.npy`` per clip.

The three take turns, ``repeats`` times; medians are given. Each is run once before, and starting workers and loading
models is outside. The pipeline decodes the mp4 files in a step of its own, whose time is part of its; its batches are
those of a run, of 64 clips, so that on a GPU it has something to load while the model works.

JSON, under ``encoders.<name>``: ``bare_clips_per_s``, ``pipeline_clips_per_s``, ``peer_clips_per_s``;
``pipeline_over_bare`` and ``bare_over_peer`` (medians of the turns' own ratios); ``parity_max_relative_error``, of bare
and pipeline against the peer, relative to the largest value of the vector; ``real_time_factor`` of the bare loop, clip
seconds per second; ``model_flops_per_s`` of the bare loop, padding not counted; ``matrix_rate_share``, that by
``matrix_flops_per_s``, the rate of a large matrix product in the same type; ``peak_memory_bytes``, PSS over all
processes, and on a GPU ``peak_gpu_memory_bytes`` of the bare loop; ``dtype``, ``device``, ``clips``, ``clip_seconds``.
Beside ``encoders`` stands ``failed``: those that could not be measured, with the reason; the others are all the same.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from mer_ray import registry
from mer_ray.benchmarks import clips as clips_
from mer_ray.benchmarks import peers
from mer_ray.benchmarks.harness import matrix_rate, median, peak_memory, table, timed
from mer_ray.config import EncoderConfig, Section
from mer_ray.errors import ConfigError, InputError, PluginError
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.forward import has_fast_bfloat16, pick_device
from mer_ray.types import SAMPLE_RATE_HZ, Clip

T = TypeVar("T")

_CLIPS = {"cpu": 24, "cuda": 192}
_ON_A_CPU = ("hubert-large", "clip-vit-large-patch14", "roberta-large")


class Config(Section):
    """What is measured, and on what."""

    encoders: list[str] | None = Field(
        None,
        description="architectures of the encoder plug-ins; default hubert-large, clip-vit-large-patch14 and "
        "roberta-large on a CPU, all that fit on a GPU",
    )
    clips: int | None = Field(None, ge=1, description="clips of very different lengths; default 24, on a GPU 192")
    seconds: float = Field(4.8, gt=0.5, description="their mean length")
    frames: int = Field(8, ge=1, description="face frames of a clip")
    repeats: int = Field(3, ge=1, description="turns of each way")
    pipeline: bool = Field(True, description="also measure the pipeline; needs Ray")
    peer: bool = Field(True, description="also measure the usual way")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the models run")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is in hardware")
    budget: int | None = Field(None, description="instead of each encoder's own: count x longest of one forward")
    compile: bool = Field(False, description="torch.compile the models")
    seed: int = Field(0, ge=0, description="of the clips")


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure every encoder, and yield all figures after each; prints a table.

    Raises:
        ConfigError: no such architecture.
    """
    device = pick_device(settings.device)
    names = settings.encoders
    if names is None:
        names = fitting(settings, torch.cuda.mem_get_info()[0]) if device == "cuda" else list(_ON_A_CPU)
    chosen = {name: find(name) for name in names}
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if has_fast_bfloat16(device) else "float32"
    figures: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, _ray(settings):
        count = settings.clips or _CLIPS[device]
        clips = clips_.make(Path(folder) / "clips", count, settings.seconds, settings.seed)
        for name, (plugin, published) in chosen.items():
            encoder = configure(plugin, name, settings, device, dtype)
            try:
                figures[name] = Bench(name, encoder, published, clips, settings, Path(folder)).run(console)
            except Exception as error:  # noqa: BLE001 - the others can still be measured; this one is told
                failed[name] = f"{type(error).__name__}: {error}"
                console.print(f"{name} failed: {failed[name]}", markup=False, soft_wrap=True)
            gc.collect()
            torch.cuda.empty_cache()
            yield {"encoders": figures, "failed": failed}
    show(figures, console)


def _ray(settings: Config) -> AbstractContextManager[None]:
    if not settings.pipeline:
        return nullcontext()
    from mer_ray.benchmarks import extract_ray  # noqa: PLC0415 - not needed without the pipeline

    return extract_ray.started()


def find(name: str) -> tuple[str, Architecture]:
    """The plug-in that has an architecture of this name, and the architecture.

    Raises:
        ConfigError: there is none.
    """
    known = architectures()
    if name not in known:
        raise ConfigError(f"no architecture {name!r}{registry.nearest(name, list(known))}; {', '.join(sorted(known))}")
    return known[name]


def architectures() -> dict[str, tuple[str, Architecture]]:
    """Every published architecture with its plug-in, by name; of a name that two plug-ins have, the first's.

    Plug-ins that lack a library here are left out.
    """
    known: dict[str, tuple[str, Architecture]] = {}
    for plugin in registry.names("encoders"):
        try:
            of_plugin = getattr(registry.find("encoders", plugin), "ARCHITECTURES", {})
        except PluginError:
            continue
        known = {name: (plugin, published) for name, published in of_plugin.items()} | known
    return known


def fitting(settings: Config, memory_bytes: int) -> list[str]:
    """The architectures that can be built from their name alone and fit, with the peer's and the pipeline's copies.

    Smallest first. Every copy is built in float32, those of bare and pipeline are then cast; activations are left a
    third of the memory.
    """
    bare = 4 if settings.dtype == "float32" else 2
    per_parameter = max(4, bare + (4 if settings.peer else 0) + (4 if settings.pipeline else 0))
    fits = []
    for name, (plugin, published) in architectures().items():
        try:
            encoder = configure(plugin, name, settings, "cpu", "float32")
            _ = registry.build("encoders", encoder.plugin, encoder.options).dim
        except InputError:
            continue
        if published.num_parameters * per_parameter < memory_bytes * 2 / 3:
            fits.append((published.num_parameters, name))
    return [name for _, name in sorted(fits)]


def configure(plugin: str, name: str, settings: Config, device: str, dtype: str) -> EncoderConfig:
    """The encoder at full size with random weights, reading out what its peer does."""
    peer = peers.PEERS.get(plugin)
    options: dict[str, Any] = {
        "weights": {"source": f"random:{name}"},
        "device": device,
        "dtype": dtype,
        "compile": settings.compile,
        **(peer.options if peer else {}),
    }
    if settings.budget:
        options["budget"] = settings.budget
    on_gpu = device == "cuda"
    return EncoderConfig(
        plugin=plugin,
        options=options,
        cpus=1 if on_gpu else torch.get_num_threads(),
        gpus=1 if on_gpu else 0,
    )


class Bench:
    """One encoder, measured the three ways."""

    def __init__(
        self,
        name: str,
        encoder: EncoderConfig,
        published: Architecture,
        clips: Sequence[Clip],
        settings: Config,
        folder: Path,
    ) -> None:
        self.name = name
        self.config = encoder
        self.published = published
        self.clips = clips
        self.settings = settings
        self.folder = folder
        self.device: str = encoder.options["device"]
        self.peer = peers.PEERS.get(encoder.plugin)

    def run(self, console: Console) -> dict[str, Any]:
        """All figures of the encoder."""
        given = dict(
            zip(
                (clip.clip_id for clip in self.clips),
                clips_.inputs(self.clips, self.config, self.settings.frames),
                strict=True,
            )
        )
        heard = list(given.values())
        encoder = registry.build("encoders", self.config.plugin, self.config.options)
        encoder.load()
        batches = encoder.batches(heard)
        rate = matrix_rate(self.device, getattr(torch, encoder.dtype))
        frames, gpu_bytes = _watched(lambda: encoder.encode(heard), self.device)
        vectors = {"bare": {clip_id: of_clip.mean(axis=0) for clip_id, of_clip in zip(given, frames, strict=True)}}
        out = self.folder / f"peer-{self.name}"
        out.mkdir()
        peer = self._peer() if self.settings.peer else None
        if peer:
            peer.run(given, out)
            vectors["peer"] = {clip_id: peers.read(out, clip_id) for clip_id in given}
        seconds: dict[str, list[float]] = {"bare": [], "pipeline": [], "peer": []}
        with peak_memory() as memory:
            for turn in range(self.settings.repeats):
                console.print(f"{self.name}: turn {turn + 1} of {self.settings.repeats}", highlight=False)
                seconds["bare"].append(timed(lambda: [encoder.run_batch(b) for b in batches], self.device))
                if self.settings.pipeline:
                    spent, vectors["pipeline"] = self._pipeline(turn)
                    seconds["pipeline"].append(spent)
                if peer:
                    seconds["peer"].append(timed(partial(peer.run, given, out), self.device))
        rate = max(rate, matrix_rate(self.device, getattr(torch, encoder.dtype)))
        flops = peers.flops(self.peer, self.published, encoder, heard)
        figures = self._figures(seconds, vectors, flops / median(seconds["bare"]), rate)
        figures |= {"peak_memory_bytes": memory.peak_bytes, "dtype": encoder.dtype, "device": self.device}
        return figures | ({"peak_gpu_memory_bytes": gpu_bytes} if self.device == "cuda" else {})

    def _peer(self) -> peers.PeerRun | peers.OneByOne:
        if self.peer:
            return peers.PeerRun(self.peer, self.published, self.device)
        return peers.OneByOne(self.config, self.device)

    def _pipeline(self, turn: int) -> tuple[float, dict[str, NDArray[np.float32]]]:
        from mer_ray.benchmarks import extract_ray  # noqa: PLC0415 - as in _ray

        tables = self.folder / f"tables-{turn}"
        try:
            return extract_ray.run(self.config, self.clips, self.settings.frames, tables)
        finally:
            shutil.rmtree(tables, ignore_errors=True)

    def _figures(
        self,
        seconds: Mapping[str, list[float]],
        vectors: Mapping[str, Mapping[str, NDArray[np.float32]]],
        flops_per_s: float,
        rate: float,
    ) -> dict[str, Any]:
        count = len(self.clips)
        length = self._clip_seconds()
        figures: dict[str, Any] = {
            f"{way}_clips_per_s": count / median(spent) for way, spent in seconds.items() if spent
        }
        if seconds["pipeline"]:
            ratios = [bare / whole for bare, whole in zip(seconds["bare"], seconds["pipeline"], strict=True)]
            figures["pipeline_over_bare"] = median(ratios)
        if seconds["peer"]:
            ratios = [peer / bare for bare, peer in zip(seconds["bare"], seconds["peer"], strict=True)]
            figures["bare_over_peer"] = median(ratios)
        reference = vectors.get("peer", vectors["bare"])
        figures["parity_max_relative_error"] = max(
            float(np.abs(made[c] - reference[c]).max() / np.abs(reference[c]).max())
            for made in vectors.values()
            for c in reference
        )
        return figures | {
            "real_time_factor": length / median(seconds["bare"]),
            "model_flops_per_s": flops_per_s,
            "matrix_flops_per_s": rate,
            "matrix_rate_share": flops_per_s / rate,
            "clips": count,
            "clip_seconds": length,
        }

    def _clip_seconds(self) -> float:
        heard = clips_.inputs(self.clips, EncoderConfig(plugin="logmel"), self.settings.frames)
        return sum(len(clip.audio) / SAMPLE_RATE_HZ for clip in heard if clip.audio is not None)


def _watched(act: Callable[[], T], device: str) -> tuple[T, int]:
    """What ``act`` returns, and the most memory of the GPU that tensors took meanwhile; 0 without a GPU."""
    if device != "cuda":
        return act(), 0
    torch.cuda.reset_peak_memory_stats()
    return act(), torch.cuda.max_memory_allocated()


def show(figures: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print the figures, one line per encoder."""
    columns = {
        "bare /s": "bare_clips_per_s",
        "pipeline /s": "pipeline_clips_per_s",
        "peer /s": "peer_clips_per_s",
        "pipeline / bare": "pipeline_over_bare",
        "bare / peer": "bare_over_peer",
        "of matrix rate": "matrix_rate_share",
        "real time x": "real_time_factor",
        "parity error": "parity_max_relative_error",
        "peak bytes": "peak_memory_bytes",
        "type": "dtype",
    }
    rows = [[name, *(values.get(key, "-") for key in columns.values())] for name, values in figures.items()]
    table(console, "features per second", ["encoder", *columns], rows)
