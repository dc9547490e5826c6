"""What the benchmarks share: the command line, the machine's own speed, memory over all processes, the JSON file."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch
from rich.console import Console

from mer_ray import benchmarks, config
from mer_ray.errors import ConfigError, InputError, MerRayError
from mer_ray.registry import nearest
from mer_ray.runtime.journal import environment

_SAMPLE_SECONDS = 0.25
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_MATRIX_TRIES = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/bench.py NAME [--json FILE] [key=value ...]``; the exit code."""
    known = names()
    parser = argparse.ArgumentParser(prog="jobs/bench.py", description="Measure speed and memory, side by side.")
    parser.add_argument("name", nargs="?", help=f"one of: {', '.join(known)}; with --help its keys")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        if options.name not in known:
            raise ConfigError(f"no benchmark {options.name!r}{nearest(str(options.name), known)}; {', '.join(known)}")
        bench = find(options.name)
        settings = config.load(bench.Config, None, options.overrides)
        figures = bench.run(settings, Console(highlight=False))
    except MerRayError as error:
        errors.print(f"[bold red]{'error' if isinstance(error, InputError) else 'failed'}:[/] {error}", markup=True)
        return error.exit_code
    if options.json:
        whole = {"benchmark": options.name, "config": settings.model_dump(mode="json")} | environment() | figures
        Path(options.json).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 0


def names() -> list[str]:
    """The benchmarks: modules of this package with a ``Config`` and a ``run``."""
    found = (info.name for info in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if "def run(settings: Config" in _source(name))


def find(name: str) -> ModuleType:
    """The module of a benchmark."""
    return importlib.import_module(f"{benchmarks.__name__}.{name}")


def _source(name: str) -> str:
    return (Path(benchmarks.__path__[0]) / f"{name}.py").read_text(encoding="utf-8")


def timed(act: Callable[[], object], device: str = "cpu") -> float:
    """Seconds that ``act`` takes, the device's own work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Multiply-add rate of the device for large square matrices, FLOP/s: the best of several tries."""
    side = _MATRIX_SIDE[device]
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    timed(lambda: left @ right, device)
    return 2.0 * side**3 / min(timed(lambda: left @ right, device) for _ in range(_MATRIX_TRIES))


def median(values: Sequence[float]) -> float:
    """The middle of the values; NaN of none."""
    return statistics.median(values) if values else float("nan")


class Memory:
    """The most memory that this process and its children held together: sum of PSS, sampled."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()

    def sample(self) -> None:
        """Take one sample."""
        me = psutil.Process()
        total = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except (psutil.Error, AttributeError):  # gone meanwhile, or a system without PSS
                continue
        self.peak_bytes = max(self.peak_bytes, total)

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.sample()


@contextmanager
def peak_memory() -> Iterator[Memory]:
    """Watch the memory for the time of the block."""
    memory = Memory()
    memory.sample()
    thread = threading.Thread(target=memory._watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        memory._stop.set()
        thread.join()
        memory.sample()


def table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; its columns are wide enough for what stands in them even where the output is a file."""
    from rich.table import Table  # noqa: PLC0415

    grid = Table(title=title, title_justify="left")
    for column in columns:
        grid.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    wide = console if console.is_terminal else Console(width=200, file=sys.stdout, highlight=False)
    wide.print(grid)
