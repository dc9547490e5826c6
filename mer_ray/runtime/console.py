"""What a person sees while a job runs: one live line per step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_SECONDS = 10.0


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

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` are there, with a note such as the number of errors."""
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        fresh = done - self._first
        rate = f"{fresh / (now - self._started):.1f} {self.unit}/s" if fresh else ""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=f"{rate} {note}".strip())
        elif now - self._spoke >= _PLAIN_SECONDS or done == total:
            self._spoke = now
            self._console.print(f"{self.name}: {done}/{total} {rate} {note}".rstrip(), highlight=False, soft_wrap=True)


@contextmanager
def step_line(console: Console, name: str, unit: str = "clips") -> Iterator[StepLine]:
    """Show a step for the time of the block."""
    if not console.is_terminal:
        yield StepLine(name, unit, console, None)
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
