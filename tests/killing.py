"""Jobs that are killed for real, at their moment."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import psutil

_SECONDS = 300


def kill_when(command: Sequence[str], ready: Callable[[], bool]) -> None:
    """Start a job and kill its driver as soon as ``ready``; fails when the job ends first."""
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(job, ready)
    kill(job)


def wait_for(job: subprocess.Popen[str] | subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Until its moment; fails when the job ends first, or never comes to it."""
    deadline = time.time() + _SECONDS
    while not ready():
        assert job.poll() is None, "the job ended before its moment came"
        assert time.time() < deadline, "the moment never came"
        time.sleep(0.02)


def kill(job: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """The driver, as power or a node would be lost; what works for it goes with it."""
    working = [p for p in psutil.Process(job.pid).children(recursive=True) if "Agent" not in p.name()]
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(working, timeout=60)
    assert not alive, f"they outlive their driver: {alive}"
