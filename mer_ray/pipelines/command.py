"""The command line that all jobs share: a config file, overrides, ``--dry-run``, ``--help``, and exit codes.

A job stands in ``pipelines`` under its own name and is imported when it is to run: that takes seconds, for which
``--help`` or a misspelt key need not wait.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from rich.console import Console
from rich.table import Table

from mer_ray import config
from mer_ray.errors import InputError, MerRayError
from mer_ray.runtime.console import waiting

_ONE_STOP_SECONDS = 1.0


def main(
    *,
    job: str,
    about: str,
    model: type[config.T],
    file: str | Callable[[Sequence[str]], str] = "",
    lists: bool = False,
    texts: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line, load the config, run the job; the exit code.

    It is 0, or 3 when too many clips were quarantined; 2 of bad input or config, 1 of any other failure; 130 of Ctrl-C
    (SIGINT) and 143 of SIGTERM, after which the same command continues.

    Args:
        job: its name: ``run`` of that pipeline is called with the config and whether it is a dry run.
        about: one sentence.
        model: what the config is checked against.
        file: the config file when none is given, or what chooses it by the overrides; empty for none.
        lists: whether there is ``--list``, which prints the encoders.
        texts: keys whose values are text even where YAML would read a number: ids of clips.
        arguments: instead of the process's own.
    """
    parser = argparse.ArgumentParser(prog=f"jobs/{job}.py", description=about, add_help=False)
    parser.add_argument("--config", metavar="FILE", action="append")
    parser.add_argument("--dry-run", action="store_true")
    if lists:
        parser.add_argument("--list", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    options = parser.parse_intermixed_args(arguments)
    if options.help:
        _help(job, about, model, lists=lists)
        return 0

    def act() -> int:
        if lists and options.list:
            _pipeline("listing").show(Console(highlight=False))
            return 0
        overrides = [_quoted(override, texts) for override in options.overrides]
        given = options.config or (file if isinstance(file, str) else file(overrides))
        settings = config.load(model, given, overrides)
        return int(_pipeline(job).run(settings, options.dry_run))

    return guarded(act)


def _pipeline(name: str) -> ModuleType:
    with waiting(Console(highlight=False), "starting"):
        return import_module(f"mer_ray.pipelines.{name}")


def _quoted(override: str, texts: Sequence[str]) -> str:
    """The override, its value in quotes when its key is one of ``texts``.

    >>> _quoted("clip=007", ["clip"])
    'clip="007"'
    """
    key, equals, value = override.partition("=")
    return f"{key}={json.dumps(value)}" if equals and key in texts else override


def guarded(act: Callable[[], int]) -> int:
    """What ``act`` returns, or the exit code of its error or of the signal that ended it, which is told in one line."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    with _noted_signals() as came:
        try:
            return act()
        except BaseException as error:  # noqa: BLE001 - the last line must say why, also in the log of a submitted job
            if came or isinstance(error, KeyboardInterrupt | SystemExit):
                errors.print("stopped; the same command continues")
                return 128 + (came[0] if came else _signal_of(error))
            return _told(error, errors)


def _told(error: BaseException, errors: Console) -> int:
    if isinstance(error, MerRayError):
        kind = "error" if isinstance(error, InputError) else "failed"
        errors.print(f"[bold red]{kind}:[/] {_escape(str(error))}")
        return error.exit_code
    traceback.print_exception(error, file=sys.stderr)
    errors.print(f"[bold red]failed:[/] {_escape(f'{type(error).__name__}: {error}')}")
    return 1


def _signal_of(error: BaseException) -> int:
    """Of an end without a noted signal: Ray, while it starts, leaves by SystemExit on SIGTERM."""
    return signal.SIGTERM if isinstance(error, SystemExit) else signal.SIGINT


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """The signals that asked this process to stop in the block, each of which raises KeyboardInterrupt where it is.

    That is what Ray lets through its own code, though not as which kind and sometimes inside another exception, so the
    list says what came. What comes twice at once, from the terminal and from a program that started this one, is one.
    Only the main thread gets signals; in another the list stays empty.
    """
    came: list[int] = []
    last = -math.inf
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def stop(number: int, frame: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        came.append(number)
        if last - before > _ONE_STOP_SECONDS:
            raise KeyboardInterrupt

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _help(job: str, about: str, model: type[config.Section], lists: bool) -> None:
    console = Console(highlight=False)
    flags = "[--config FILE] [--dry-run] [--list]" if lists else "[--config FILE] [--dry-run]"
    console.print(f"usage: .venv/bin/python jobs/{job}.py {flags} [key.sub=value ...]\n\n{about}\n", markup=False)
    shipped = ", ".join(path.name for path in sorted(config.CONFIGS.glob("*.yaml")))
    console.print(f"--config FILE  a YAML file; of several, the later ones win; shipped: {shipped}", markup=False)
    console.print("--dry-run      say what would be made, the disk and the time it needs, and stop", markup=False)
    if lists:
        console.print("--list         show the encoders with their widths, licences and published models, and stop")
    console.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("meaning", overflow="fold")
    for key, default, meaning in config.describe(model):
        table.add_row(_escape(key), _escape(default), _escape(meaning))
    console.print(table)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
