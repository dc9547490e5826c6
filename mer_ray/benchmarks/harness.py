"""What the benchmarks share: the command line, the machine's own speed, memory over all processes, the JSON file."""

from __future__ import annotations

import argparse
import ast
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
from rich.markup import escape

from mer_ray import benchmarks, config
from mer_ray.errors import ConfigError, InputError, MerRayError
from mer_ray.registry import nearest
from mer_ray.runtime.journal import environment

_SAMPLE_SECONDS = 0.25
_BETWEEN_SAMPLES = 100
"""A sample is followed by a pause this many times as long."""
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_MATRIX_TRIES = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """``jobs/bench.py NAME [--json FILE] [key=value ...]``; the exit code.

    A benchmark's ``run`` returns its figures, or an iterator of them, each time with what was measured since: the file
    is written each time, so that a run cut short keeps them. Under ``failed`` they say what could not be measured.
    """
    parser = argparse.ArgumentParser(prog="jobs/bench.py", add_help=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.help:
            _help(options.name)
            return 0
        bench = find(options.name)
        settings = config.load(bench.Config, None, options.overrides)
        keep = _keeper(options.json, {"benchmark": options.name, "config": settings.model_dump(mode="json")})
        made = bench.run(settings, Console(highlight=False))
        figures: dict[str, Any] = {}
        for figures in [made] if isinstance(made, dict) else made:
            keep(figures)
    except MerRayError as error:
        kind = "error" if isinstance(error, InputError) else "failed"
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]{kind}:[/] {escape(str(error))}")
        return error.exit_code
    return 1 if figures.get("failed") else 0


def _keeper(file: str | None, head: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    """What writes figures behind ``head`` and the environment into ``file``, whose folder is made here."""
    if file is None:
        return lambda figures: None
    path = Path(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--json {file}: its folder cannot be made: {error}") from error
    head |= environment()
    return lambda figures: path.write_text(json.dumps(head | figures, indent=2) + "\n", encoding="utf-8")


def _help(name: str | None) -> None:
    """Print the keys of a benchmark and what its figures mean, or without a name which benchmarks there are."""
    from rich.table import Table  # noqa: PLC0415

    console = Console(highlight=False)
    usage = f"usage: .venv/bin/python jobs/bench.py {name or 'NAME'} [--json FILE] [key=value ...]\n"
    console.print(usage, markup=False, soft_wrap=True)
    grid = Table(box=None, pad_edge=False)
    if name is None:
        for column in ("NAME", "what it measures"):
            grid.add_column(column, overflow="fold")
        for known in names():
            grid.add_row(known, escape(_docstring(known).partition("\n")[0]))
    else:
        bench = find(name)
        console.print(f"{_docstring(name)}\n", markup=False, soft_wrap=True)
        for column in ("key", "default", "meaning"):
            grid.add_column(column, overflow="fold")
        for row in config.describe(bench.Config):
            grid.add_row(*map(escape, row))
    console.print(grid)


def names() -> list[str]:
    """The benchmarks: modules of this package with a ``Config`` and a ``run``."""
    found = (info.name for info in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if "def run(settings: Config" in _source(name))


def find(name: str | None) -> ModuleType:
    """The module of a benchmark.

    Raises:
        ConfigError: there is none of this name.
    """
    known = names()
    if name not in known:
        raise ConfigError(f"no benchmark {name!r}{nearest(str(name), known)}; {', '.join(known)}")
    return importlib.import_module(f"{benchmarks.__name__}.{name}")


def _docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(_source(name))) or ""


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
    """The most memory that a process, this one unless another is given, and its children held: sum of PSS, sampled.

    ``alone``: without its children.
    """

    def __init__(self, process_id: int | None = None, *, alone: bool = False) -> None:
        self.process_id = process_id
        self.alone = alone
        self.peak_bytes = 0
        self._stop = threading.Event()

    def sample(self) -> None:
        """Take one sample."""
        try:
            root = psutil.Process(self.process_id)
            processes = [root, *([] if self.alone else root.children(recursive=True))]
        except psutil.Error:  # it has ended
            return
        total = 0
        for process in processes:
            try:
                total += process.memory_full_info().pss
            except (psutil.Error, AttributeError):  # gone meanwhile, or a system without PSS
                continue
        self.peak_bytes = max(self.peak_bytes, total)

    def _watch(self) -> None:
        spent = 0.0
        # a sample of processes of several GB takes a tenth of a second, and holds up what they do
        while not self._stop.wait(max(_SAMPLE_SECONDS, _BETWEEN_SAMPLES * spent)):
            spent = timed(self.sample)


@contextmanager
def peak_memory(process_id: int | None = None, *, alone: bool = False) -> Iterator[Memory]:
    """Watch the memory for the time of the block."""
    memory = Memory(process_id, alone=alone)
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
