"""The command line that all jobs share: a config file, overrides, ``--dry-run``, ``--help``, and exit codes."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from mer_ray import config
from mer_ray.errors import InputError, MerRayError


def main(
    *,
    job: str,
    about: str,
    model: type[config.T],
    pick_file: Callable[[Sequence[str]], str],
    run: Callable[[config.T, bool], int],
    listing: Callable[[Console], None] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line, load the config, run the job; the exit code (DESIGN section 3).

    Args:
        job: its name, for the usage line.
        about: one sentence.
        model: what the config is checked against.
        pick_file: the config file when none is given, chosen by the overrides.
        run: the job, given the config and whether it is a dry run; returns its exit code.
        listing: what ``--list`` prints, for a job that has it.
        arguments: instead of the process's own.
    """
    parser = argparse.ArgumentParser(prog=f"jobs/{job}.py", description=about, add_help=False)
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--dry-run", action="store_true")
    if listing is not None:
        parser.add_argument("--list", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    options = parser.parse_intermixed_args(arguments)
    if options.help:
        _help(job, about, model, has_list=listing is not None)
        return 0

    def act() -> int:
        if listing is not None and options.list:
            listing(Console(highlight=False))
            return 0
        settings = config.load(model, options.config or pick_file(options.overrides), options.overrides)
        return run(settings, options.dry_run)

    return _guarded(act)


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


def _help(job: str, about: str, model: type[config.Section], has_list: bool) -> None:
    console = Console(highlight=False)
    flags = "[--config FILE] [--dry-run] [--list]" if has_list else "[--config FILE] [--dry-run]"
    console.print(f"usage: python jobs/{job}.py {flags} [key.sub=value ...]\n\n{about}\n", markup=False)
    shipped = ", ".join(path.name for path in sorted(config.CONFIGS.glob("*.yaml")))
    console.print(f"--config FILE  a YAML file; shipped in jobs/configs: {shipped}", markup=False)
    console.print("--dry-run      say what would be made, the disk and the time it needs, and stop", markup=False)
    if has_list:
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
