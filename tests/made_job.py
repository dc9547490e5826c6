"""The jobs as a user runs them: a process of their own, or its whole command line on the Ray of the tests."""

import io
import runpy
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from mer_ray import config

SMALL_RAY = ("runtime.num_cpus=2", "runtime.object_store_bytes=100000000")
QUICK = ("fit.epochs=8", "fit.folds=3", "mining.rounds=1", *SMALL_RAY)


def script(job: str) -> str:
    """Where a job is."""
    return str(config.REPOSITORY / "jobs" / f"{job}.py")


def run(job: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python jobs/<job>.py``."""
    command = [sys.executable, script(job), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=cwd, check=False)


def here(job: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same script in this process: seconds sooner, and on the Ray that the tests share where there is one.

    Ray's workers are in another folder then: a path that they are to read must be whole.
    """
    command, out, err = [script(job), *arguments], io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", command):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as ended:
            return subprocess.CompletedProcess(command, ended.code, out.getvalue(), err.getvalue())
    raise AssertionError(f"{command[0]} did not say how it ended")


def mine(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python jobs/mine.py`` with small settings; later arguments win over these."""
    return run("mine", *QUICK, *arguments, cwd=cwd)


def mine_here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As ``mine``, in this process."""
    return here("mine", *QUICK, *arguments, cwd=cwd)
