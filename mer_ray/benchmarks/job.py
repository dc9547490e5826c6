"""The whole main job on ready features, by its real command: MER2024's size unless told otherwise.

Features with a planted signal are written as files, and ``jobs/mine.py --config jobs/configs/features.yaml`` reads them
in a process of its own, its output through a pipe, as a log file would take it.

JSON: ``job_seconds``, wall-clock of the command, its start included; ``longest_silence_seconds``, the longest time in
which it wrote nothing; ``peak_memory_bytes``, PSS of the command and all its children, Ray's among them, sampled: a
page that several share, as the object store's, counts once; ``seconds.<step>``, as the run's own journal has them, and
``seconds.round_<number>`` of each round; ``waf`` of the test clips; ``adopted``, clips. Of a command that fails, the
exit code and last line stand under ``failed``.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from mer_ray.benchmarks import planted
from mer_ray.benchmarks.harness import peak_memory, table
from mer_ray.config import CONFIGS, REPOSITORY, Section
from mer_ray.data.storage import Store
from mer_ray.runtime.journal import Journal
from mer_ray.types import Split


class Config(Section):
    """How much of everything."""

    labelled: int = Field(5030, ge=10, description="labelled clips (MER2024: 5,030)")
    pool: int = Field(115_595, ge=1, description="other clips (MER2024: 115,595)")
    test: int = Field(1169, ge=0, description="clips of the pool whose labels are there to score by (MER2024: 1,169)")
    audio: int = Field(1024, ge=1, description="width of the audio feature")
    video: int = Field(768, ge=1, description="width of the video feature")
    text: int = Field(5120, ge=1, description="width of the text feature")
    classes: int = Field(6, ge=2, description="classes")
    seed: int = Field(0, ge=0, description="seed of the clips and of the job")
    overrides: list[str] = Field([], description="more arguments of the command, as fit.epochs=2")

    @property
    def widths(self) -> dict[str, int]:
        """By feature, each named as its modality."""
        return {"audio": self.audio, "video": self.video, "text": self.text}


@dataclass(frozen=True)
class Watched:
    """A command that has ended.

    Attributes:
        exit_code: its.
        seconds: from its start to its end.
        longest_silence_seconds: the longest time without output, before the first and after the last included.
        output: all that it wrote.
    """

    exit_code: int
    seconds: float
    longest_silence_seconds: float
    output: str


def run(settings: Config, console: Console) -> dict[str, Any]:
    """Write the features, run the command, read what it left; prints a table."""
    with tempfile.TemporaryDirectory(prefix="mer_ray_job_") as name:
        folder = Path(name)
        make(folder, settings)
        left = folder / "run"
        command = [
            sys.executable,
            str(REPOSITORY / "jobs/mine.py"),
            *("--config", str(CONFIGS / "features.yaml")),
            *(f"data.manifest={folder / 'clips.csv'}", f"data.features={folder / 'features'}"),
            *(f"run.dir={left}", f"seed={settings.seed}", *settings.overrides),
        ]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child,
            peak_memory(child.pid) as memory,
        ):
            watched = watch(child)
        figures = _figures(left, watched) | {"peak_memory_bytes": memory.peak_bytes}
    columns = ["job_seconds", "longest_silence_seconds", "peak_memory_bytes", "waf"]
    table(console, "the whole job", columns, [[figures[column] for column in columns]])
    table(console, "its steps", ["step", "seconds"], [*figures["seconds"].items()])
    return figures


def make(folder: Path, settings: Config) -> None:
    """Write ``clips.csv`` and ``features/<feature>.npz`` into a folder: labelled clips, then the pool."""
    num_clips = settings.labelled + settings.pool
    files = folder / "features"
    files.mkdir()
    labels = planted.make(files, num_clips, settings.widths, settings.classes, settings.seed)
    ids = [f"clip_{number:06d}" for number in range(num_clips)]
    np.save(files / "clip_id.npy", np.array(ids))
    for name in settings.widths:
        with zipfile.ZipFile(files / f"{name}.npz", "w") as archive:  # as np.savez does, which would read all of it
            archive.write(files / "clip_id.npy", "clip_id.npy")
            archive.write(files / f"{name}.npy", "vector.npy")
        (files / f"{name}.npy").unlink()
    (files / "clip_id.npy").unlink()
    with (folder / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "split", "label"])
        writer.writerows(_rows(ids, labels, settings))


def _rows(ids: Sequence[str], labels: NDArray[np.int64], settings: Config) -> list[tuple[str, str, str]]:
    """Of the manifest; a clip of the pool that is no test clip has no label."""
    splits = [Split.TRAIN] * settings.labelled + [Split.TEST] * min(settings.test, settings.pool)
    splits += [Split.UNLABELED] * (len(ids) - len(splits))
    return [
        (clip_id, str(split), "" if split is Split.UNLABELED else f"class{label}")
        for clip_id, split, label in zip(ids, splits, labels.tolist(), strict=True)
    ]


def watch(child: subprocess.Popen[bytes]) -> Watched:
    """Read what a command writes, as it comes, until it ends; it is ended when the reading is."""
    assert child.stdout is not None
    started = spoke = time.monotonic()
    longest, parts = 0.0, list[bytes]()
    try:
        while part := child.stdout.read1():  # type: ignore[attr-defined]  # a BufferedReader
            now = time.monotonic()
            longest, spoke = max(longest, now - spoke), now
            parts.append(part)
        exit_code = child.wait()
    finally:
        child.terminate()  # nothing, where it has ended
    ended = time.monotonic()
    return Watched(exit_code, ended - started, max(longest, ended - spoke), b"".join(parts).decode(errors="replace"))


def _figures(left: Path, watched: Watched) -> dict[str, Any]:
    """What the command took and what its run directory tells."""
    figures: dict[str, Any] = {
        "job_seconds": watched.seconds,
        "longest_silence_seconds": watched.longest_silence_seconds,
        "seconds": _seconds(Journal(Store(str(left)))),
        "waf": None,
        "adopted": None,
    }
    if watched.exit_code:
        lines = watched.output.split("\n")
        told = next((line for line in reversed(lines) if line.strip()), "nothing was written")
        return figures | {"failed": {"job": f"exit code {watched.exit_code}: {told}"}}
    metrics = json.loads((left / "metrics.json").read_text(encoding="utf-8"))
    return figures | {"waf": metrics["test"]["waf"], "adopted": metrics["adopted"]}


def _seconds(journal: Journal) -> dict[str, float]:
    """By step, and by round of the step ``mining``."""
    seconds = {step: work["seconds"] for step, work in journal.work().items()}
    started: dict[int, datetime] = {}
    for event in journal.events():
        if event["event"] == "round_started":
            started[event["round"]] = datetime.fromisoformat(event["time"])
        elif event["event"] == "round_done":
            took = datetime.fromisoformat(event["time"]) - started[event["round"]]
            seconds[f"round_{event['round']}"] = took.total_seconds()
    return seconds
