"""Stages for tests of the runtime: they fail in every way that a model or a library can."""

import errno
import os
import resource
import signal
import time
from pathlib import Path

import pyarrow as pa

from mer_ray.errors import ClipError, Reason
from mer_ray.stages.base import Resources, Stage, failed
from mer_ray.stages.limit import one_by_one


class LengthStage(Stage):
    """The number of letters of a clip's text. A text can also tell it to misbehave.

    ``raise`` raises, ``die`` kills the process, ``die once`` does so the first time (a file in ``marks`` remembers),
    ``await kill`` gives its process id in ``marks`` and hangs the first time, ``hang`` never returns, ``memory`` runs
    out of memory, ``grow`` takes all there is, bit by bit, ``bad`` is a per-clip error, ``bad once`` the first time
    alone. ``full`` meets a full disk, ``full once`` the first time alone, and ``sticky`` breaks the device the first
    time, after which nothing works in its process; ``no files`` lets it open no more files, the first time too.
    """

    name = "length"
    version = 1
    reads = ("clip",)

    def __init__(self, marks: Path, batch_size: int = 4, clip_seconds: float = 30.0) -> None:
        self.marks = marks
        self.is_broken = False
        self.full_is_over = False
        self.resources = Resources(batch_size=batch_size, clip_seconds=clip_seconds, max_actors=2)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        return (pa.field("letters", pa.int64()),)

    @property
    def spec(self) -> dict[str, int]:
        return {"version": self.version}

    def process(self, batch: pa.Table) -> pa.Table:
        return self.rows_to_table(
            [self._row(row["clip_id"], row["clip"]["text"]) for row in one_by_one(batch.to_pylist())]
        )

    def _row(self, clip_id: str, text: str) -> dict[str, object]:
        with (self.marks / f"{clip_id}.tries").open("a") as file:
            file.write("x")
        once = self.marks / f"{clip_id}.died"
        self._break_down(clip_id, text)
        if text == "raise":
            raise RuntimeError("the model fell over")
        if text == "memory":
            raise MemoryError
        held: list[bytes] = []
        while text == "grow":
            held.append(b"x" * 2**24)
            time.sleep(0.005)
        if text == "hang":
            time.sleep(3600)
        if text == "bad" or (text == "bad once" and not once.exists()):
            once.touch()
            return failed(clip_id, ClipError(Reason.BAD_TEXT, "told to"))
        if text.startswith("sleep"):
            time.sleep(float(text.split()[1]))
        return {"clip_id": clip_id, "present": True, "letters": len(text)}

    def _break_down(self, clip_id: str, text: str) -> None:
        """What befalls the process or the machine."""
        once = self.marks / f"{clip_id}.died"
        if text == "die" or (text == "die once" and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        waiting = self.marks / f"{clip_id}.pid"
        if text == "await kill" and not waiting.exists():
            waiting.with_suffix(".part").write_text(str(os.getpid()))
            waiting.with_suffix(".part").rename(waiting)
            time.sleep(3600)
        if (text == "full" and not self.full_is_over) or (text == "full once" and not once.exists()):
            once.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if text == "sticky" and not once.exists():
            once.touch()
            self.is_broken = True
        if text == "no files" and not once.exists():
            once.touch()
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        if self.is_broken:
            raise RuntimeError("CUDA error: device-side assert triggered")


class DoubleStage(Stage):
    """Twice the upstream's number: a stage that reads a table."""

    name = "double"
    version = 1
    reads = ("length",)
    resources = Resources(batch_size=3)

    @property
    def columns(self) -> tuple[pa.Field, ...]:
        return (pa.field("doubled", pa.int64()),)

    @property
    def spec(self) -> dict[str, int]:
        return {"version": self.version}

    def process(self, batch: pa.Table) -> pa.Table:
        rows = []
        for row in batch.to_pylist():
            there = row["length"] is not None
            doubled = 2 * row["length"]["letters"] if there else None
            rows.append({"clip_id": row["clip_id"], "present": there, "doubled": doubled})
        return self.rows_to_table(rows)


class TranscriptStage(LengthStage):
    """The same, under the name of a table that a run has."""

    name = "transcript"


class DoubleTranscriptStage(DoubleStage):
    """Twice the number of ``TranscriptStage``."""

    reads = ("transcript",)

    def process(self, batch: pa.Table) -> pa.Table:
        return super().process(batch.rename_columns(["clip_id", "length"]))
