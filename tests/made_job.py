"""The jobs as a user runs them: a process of their own."""

import subprocess
import sys
from pathlib import Path

from mer_ray import config

SMALL_RAY = ("runtime.num_cpus=2", "runtime.object_store_bytes=100000000")
QUICK = ("fit.epochs=8", "fit.folds=3", "mining.rounds=1", *SMALL_RAY)


def run(job: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python jobs/<job>.py``."""
    command = [sys.executable, str(config.REPOSITORY / "jobs" / f"{job}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=cwd, check=False)


def mine(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python jobs/mine.py`` with small settings; later arguments win over these."""
    return run("mine", *QUICK, *arguments, cwd=cwd)
