"""The main job as a user runs it: a process of its own."""

import subprocess
import sys
from pathlib import Path

from mer_ray import config

QUICK = (
    "fit.epochs=8",
    "fit.folds=3",
    "mining.rounds=1",
    "runtime.num_cpus=2",
    "runtime.object_store_bytes=100000000",
)


def mine(*arguments, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python jobs/mine.py`` with small settings; later arguments win over these."""
    command = [sys.executable, str(config.REPOSITORY / "jobs" / "mine.py"), *QUICK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=cwd, check=False)
