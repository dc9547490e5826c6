"""The jobs as a user runs them, with what they printed: a process of their own, or their whole script in this one."""

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import in_process

from mer_ray import config

SMALL_RAY = ("runtime.num_cpus=2", "runtime.object_store_bytes=100000000")
QUICK = ("fit.epochs=8", "fit.folds=3", "mining.rounds=1", *SMALL_RAY)


def run(job: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python jobs/<job>.py``."""
    command = [sys.executable, str(config.REPOSITORY / "jobs" / f"{job}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=cwd, check=False)


def here(job: str, *arguments: str, cwd: Path, on_ray: bool = False) -> subprocess.CompletedProcess[str]:
    """The same script in this process, seconds sooner: without Ray, or on that of ``ray_cluster``.

    Ray's workers are in another folder then: a path that they are to read must be whole.
    """
    start, out, err = in_process.main if on_ray else in_process.run, io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        code = start(job, *arguments)
    return subprocess.CompletedProcess([job, *arguments], code, out.getvalue(), err.getvalue())


def mine(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python jobs/mine.py`` with small settings; later arguments win over these."""
    return run("mine", *QUICK, *arguments, cwd=cwd)


def mine_here(*arguments: str, cwd: Path, on_ray: bool = False) -> subprocess.CompletedProcess[str]:
    """As ``mine``, in this process."""
    return here("mine", *QUICK, *arguments, cwd=cwd, on_ray=on_ray)
