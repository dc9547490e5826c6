"""The command line that all jobs share: a config file, overrides, ``--dry-run``, ``--help``, and exit codes.

A job stands in ``pipelines`` under its own name and is imported when it is to run: that takes seconds, for which
``--help`` or a misspelt key need not wait.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from rich.console import Console
from rich.table import Table

from mer_ray import config
from mer_ray.errors import InputError, MerRayError


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
    """Parse the command line, load the config, run the job; the exit code (DESIGN section 3).

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

    return _guarded(act)


def _pipeline(name: str) -> ModuleType:
    return import_module(f"mer_ray.pipelines.{name}")


def _quoted(override: str, texts: Sequence[str]) -> str:
    """The override, its value in quotes when its key is one of ``texts``.

    >>> _quoted("clip=007", ["clip"])
    'clip="007"'
    """
    key, equals, value = override.partition("=")
    return f"{key}={json.dumps(value)}" if equals and key in texts else override


def _guarded(act: Callable[[], int]) -> int:
    """What ``act`` returns, or the exit code of its error, which is told in one line."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        return act()
    except InputError as error:
        errors.print(f"[bold red]error:[/] {_escape(str(error))}")
        return error.exit_code
    except MerRayError as error:
        errors.print(f"[bold red]failed:[/] {_escape(str(error))}")
        return error.exit_code
    except KeyboardInterrupt:
        errors.print("stopped; the same command continues")
        return 1
    except Exception as error:  # noqa: BLE001 - the last line must say why, also in the log of a submitted job
        traceback.print_exc(file=sys.stderr)
        errors.print(f"[bold red]failed:[/] {_escape(f'{type(error).__name__}: {error}')}")
        return 1


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
