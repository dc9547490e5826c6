"""What a clip costs to decode for both media tables: every frame, fewer frames, and its file read once for both.

Faces that sway, under a camera's noise, H.264 by x264 as it comes and AAC. In this process, one thread, without the
decoder's own process and without finding faces; the ways take turns. JSON, for each height ``heights.<pixels>``:

- ``every_frame_cpu_s``: CPU seconds a clip where sound and frames open it each and every frame is decoded, median;
- ``fewer_frames_cpu_s``: the same where frames that no other refers to are skipped;
- ``together_cpu_s``: the same where it is opened and read once for both;
- ``ratio``: of the last to the first, median of the turns;
- ``most_off_s``: the most that a frame is off the time that it is wanted for;
- ``clip_bytes``: of a clip's file, on average.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks.harness import median, table
from mer_ray.config import FacesConfig, MediaConfig, Section
from mer_ray.data import sandbox
from mer_ray.data.containers import Limits
from mer_ray.data.frames import read_every_frame
from mer_ray.demo import render
from mer_ray.demo.plan import DemoClip, plan
from mer_ray.types import SAMPLE_RATE_HZ

_SWAY = np.array([2.0, 0.02, 0.03, 0.02])  # degrees, share of the size, of the height to the side, and down
_LEAST_PLANNED = 24

Times = NDArray[np.float32]


class Config(Section):
    """Which clips."""

    heights: list[int] = Field([480, 720, 1080], min_length=1, description="of frames, pixels; 16:9")
    rate: float = Field(25.0, gt=0, le=120, description="frames a second of the clips")
    fps: float = Field(FacesConfig().fps, gt=0, description="frames a second that are wanted")
    clips: int = Field(2, ge=1, description="of each height")
    seconds: float = Field(4.0, gt=0, description="length of each")
    repeats: int = Field(3, ge=1, description="times that each way decodes each clip")
    noise: float = Field(3.0, ge=0, description="of the camera: standard deviation, of 255")
    seed: int = Field(0, ge=0, description="of clips and noise")


def run(settings: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Measure each height; prints a table at the end."""
    figures: dict[str, Any] = {"heights": {}}
    for height in settings.heights:
        with tempfile.TemporaryDirectory() as folder:
            figures["heights"][str(height)] = measure(list(write(Path(folder), height, settings)), settings)
        yield figures
    columns = ["height", "every frame, CPU-s", "fewer frames", "together", "ratio", "most off, s", "bytes"]
    table(console, "a clip decoded", columns, [[height, *told.values()] for height, told in figures["heights"].items()])


def measure(paths: Sequence[Path], settings: Config) -> dict[str, Any]:
    """The figures of some clips."""
    spent: dict[str, list[float]] = {name: [] for name in _WAYS}
    off = 0.0
    for path in [*paths] * settings.repeats:
        request = _request(path, settings)
        for name, way in _WAYS.items():
            start = time.process_time()
            times = way(request)
            spent[name].append(time.process_time() - start)
        off = max(off, float(np.abs(times - np.arange(len(times)) / settings.fps).max()))
    told = {f"{name}_cpu_s": median(seconds) for name, seconds in spent.items()}
    return {
        **told,
        "ratio": median([last / first for first, last in zip(spent["every_frame"], spent["together"], strict=True)]),
        "most_off_s": off,
        "clip_bytes": sum(path.stat().st_size for path in paths) // len(paths),
    }


def _request(path: Path, settings: Config) -> dict[str, Any]:
    """As the decoder's process gets it."""
    media = MediaConfig()
    limits = Limits(media.max_seconds, media.max_pixels, media.max_frames_per_second)
    pictures = {"fps": settings.fps, "max_frames": FacesConfig().max_frames}
    return {"path": str(path), "root": None, "limits": asdict(limits), **pictures}


def _every_frame(request: Mapping[str, Any]) -> Times:
    sandbox.answer({**request, "kind": "audio"})
    with open(request["path"], "rb") as file:
        found = read_every_frame(file, Limits(**request["limits"]), request["fps"], request["max_frames"])
    assert found is not None
    return found[1]


def _fewer_frames(request: Mapping[str, Any]) -> Times:
    sandbox.answer({**request, "kind": "audio"})
    return sandbox.answer({**request, "kind": "frames"})[1][-1]


def _together(request: Mapping[str, Any]) -> Times:
    return sandbox.answer({**request, "kind": "both"})[1][-1]


_WAYS: dict[str, Callable[[Mapping[str, Any]], Times]] = {
    "every_frame": _every_frame,
    "fewer_frames": _fewer_frames,
    "together": _together,
}


def write(folder: Path, height: int, settings: Config) -> Iterator[Path]:
    """The clips as files of ``folder``."""
    planned = [clip for clip in plan(max(_LEAST_PLANNED, 2 * settings.clips), settings.seed) if clip.broken is None]
    for number, clip in enumerate(planned[: settings.clips]):
        path = folder / f"{number}.mp4"
        with av.open(str(path), "w") as out:
            film = out.add_stream("libx264", rate=Fraction(settings.rate).limit_denominator(1001))
            film.width, film.height, film.pix_fmt = 2 * round(height * 8 / 9), height, "yuv420p"
            sound = out.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
            for picture in _pictures(clip, film.width, height, settings):
                out.mux(film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(film.encode())
            voice = np.resize(render.clean_voice(clip), round(settings.seconds * SAMPLE_RATE_HZ))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(voice[None]), format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            out.mux(sound.encode(frame))
            out.mux(sound.encode())
        yield path


def _pictures(clip: DemoClip, width: int, height: int, settings: Config) -> Iterator[NDArray[np.uint8]]:
    """A still of the demo's face between its own mirror images, larger, that sways: it nods, turns and comes nearer."""
    rng = np.random.default_rng([settings.seed, clip.seed, clip.speaker])
    face = cv2.resize(render.frames(clip)[0], (height, height), interpolation=cv2.INTER_CUBIC)
    side = (width - height + 1) // 2
    wide = cv2.copyMakeBorder(face, 0, 0, side, side, cv2.BORDER_REFLECT)
    rates, phases = rng.uniform(0.2, 0.9, 4), rng.uniform(0, 2 * np.pi, 4)
    for index in range(round(settings.seconds * settings.rate)):
        swing = np.sin(2 * np.pi * rates * index / settings.rate + phases) * _SWAY
        placed = cv2.getRotationMatrix2D((width / 2, height / 2), swing[0], 1 + swing[1])
        placed[:, 2] += swing[2:] * height
        moved = cv2.warpAffine(wide, placed, (width, height), borderMode=cv2.BORDER_REFLECT)
        grain = settings.noise * rng.standard_normal((height, width, 1), np.float32)
        yield np.clip(moved + grain, 0, 255).astype(np.uint8)
