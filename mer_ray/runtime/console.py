"""What a person sees while a job runs: one live line per step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_SECONDS = 10.0
_SILENT_SECONDS = 20.0


class StepLine:
    """The line of one step; told how far it is."""

    def __init__(self, name: str, unit: str, console: Console, progress: Progress | None) -> None:
        self.name = name
        self.unit = unit
        self._console = console
        self._progress = progress
        self._task = progress.add_task(name, total=None, note="") if progress else None
        self._started = self._spoke = time.monotonic()
        self._first: int | None = None
        self._shown = ""

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` are there, with a note such as the number of errors."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        fresh = done - self._first
        rate = f"{fresh / (now - self._started):.1f} {self.unit}/s" if fresh else ""
        self._shown = " ".join(filter(None, (f"{done}/{total}", rate, note)))
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=f"{rate} {note}".strip())
        elif now - self._spoke >= _PLAIN_SECONDS or done == total:
            self._say(self._shown)

    def note(self, note: str) -> None:
        """Show a note where nothing is counted."""
        self._shown = note
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=note)
        elif time.monotonic() - self._spoke >= _PLAIN_SECONDS:
            self._say(note)

    def keep_speaking(self, ended: threading.Event) -> None:
        """Until it has ended, say again how far it is whenever nothing was said for a while; on no terminal."""
        while not ended.wait(max(self._spoke + _SILENT_SECONDS - time.monotonic(), 0.1)):
            now = time.monotonic()
            if now - self._spoke >= _SILENT_SECONDS:
                self._say(f"{self._shown} ({now - self._started:.0f} s so far)".lstrip())

    def _say(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(f"{self.name}: {text}", highlight=False, soft_wrap=True)


@contextmanager
def step_line(console: Console, name: str, unit: str = "clips") -> Iterator[StepLine]:
    """Show a step for the time of the block."""
    if not console.is_terminal:
        line, ended = StepLine(name, unit, console, None), threading.Event()
        speaker = threading.Thread(target=line.keep_speaking, args=(ended,), daemon=True)
        speaker.start()
        try:
            yield line
        finally:
            ended.set()
            speaker.join()
        return
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield StepLine(name, unit, console, progress)


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Show that something goes on which tells nothing of itself; on a terminal the line goes when the block ends."""
    with console.status(what) if console.is_terminal else step_line(console, what):
        yield
