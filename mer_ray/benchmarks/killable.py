"""Processes that are killed with all that they started: a Ray cluster of separate nodes on this machine, and others."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from mer_ray.config import REPOSITORY
from mer_ray.errors import MerRayError

_MARK = "MER_RAY_KILLABLE"
_START_SECONDS = 120.0
_END_SECONDS = 30.0
_MORE_TRIES = 2
_STORE_BYTES = 100_000_000
_PORTS = range(21000, 31000, 10)
"""Above those of Ray's workers and below those that the system gives away."""


class Killable:
    """A command that can be started again and again, and killed with whatever has come of it.

    All that it starts inherits a mark in the environment, by which it is found even where it has left the command's
    process group or lost its parent.

    Args:
        command: program and arguments.
        log: file that takes its output, each start after the last.
        environment: what is set beside this process's own.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.command, self.log = list(command), log
        self._mark = uuid.uuid4().hex
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "PYTHONPATH": path, **(environment or {}), _MARK: self._mark}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0

    def start(self) -> None:
        """Start it, in a session of its own, so that Ctrl-C reaches this process alone."""
        self._started_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """What the command ended with; None while it runs, or before it was started."""
        return self._process.poll() if self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the command itself runs."""
        return self._process is not None and self._process.poll() is None

    def printed(self) -> str:
        """What it wrote since its start."""
        return self.log.read_bytes()[self._started_at :].decode(errors="replace") if self.log.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """What has come of it and lives."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kill(self) -> None:
        """Kill all of it at once by SIGKILL, as power is lost; what it starts meanwhile too.

        Raises:
            MerRayError: something of it does not die.
        """
        deadline = time.monotonic() + _END_SECONDS
        if self.is_running and self._process:
            os.killpg(self._process.pid, 9)
            self._process.wait()  # before anybody else waits for it, after whom its code would be 0
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1.0)
            if time.monotonic() > deadline:
                raise MerRayError(f"{shlex.join(self.command)}: does not die: {left}")


def wait_until(is_so: Callable[[], object], seconds: float) -> bool:
    """Whether it came to be so within the time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class Cluster:
    """A head without CPUs and worker nodes of one CPU each, every one at an address of its own on loopback.

    Args:
        folder: where Ray keeps its sessions, by a short path, and the nodes' output.
        num_nodes: how many worker nodes.

    Attributes:
        head: the head.
        nodes: the worker nodes.
        address: the head's, for ``RAY_ADDRESS``.
    """

    def __init__(self, folder: Path, num_nodes: int) -> None:
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--object-store-memory={_STORE_BYTES}"]
        told = {"RAY_AUTH_MODE": "disabled", "RAY_DISABLE_USAGE_STATS": "1", "RAY_ADDRESS": ""}
        told["RAY_worker_niceness"] = "0"  # workers that give way to everybody get nowhere on a busy machine
        place = ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}/ray"]
        head = [*ray, "--head", "--num-cpus=0", "--include-dashboard=false", *place]
        self._told = folder / "ray/ray_current_cluster"
        self.head = Killable(head, folder / "head.log", told)
        self.nodes = [
            Killable(
                [*ray, f"--address={self.address}", f"--node-ip-address=127.0.0.{11 + i}", "--num-cpus=1"],
                folder / f"node{i}.log",
                told,
            )
            for i in range(num_nodes)
        ]

    def start_head(self) -> None:
        """Start the head, also where nodes of one that was killed still live."""
        self._told.unlink(missing_ok=True)  # by which Ray would take that one for alive
        self.head.start()

    def start_nodes(self) -> None:
        """Start the worker nodes one after the other, since two at once are slow on few cores. The head is started.

        Raises:
            MerRayError: the head or one of them does not start.
        """
        _await_start(self.head)
        for node in self.nodes:
            node.start()
            for _ in range(_MORE_TRIES):  # on a busy machine Ray's own patience with a node may be too short
                if not _has_started(node):
                    node.kill()
                    node.start()
            _await_start(node)

    def mend(self) -> None:
        """Start each worker node again that has ended, without waiting for it."""
        for node in self.nodes:
            if not node.is_running:
                node.kill()  # what its end has left behind
                node.start()

    def kill(self) -> None:
        """End all of it."""
        for one in (*self.nodes, self.head):
            one.kill()

    def workers(self, name: str) -> list[psutil.Process]:
        """The processes on the worker nodes that Ray calls by a name that begins so."""
        found = []
        for process in (process for node in self.nodes for process in node.processes()):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(name):
                    found.append(process)
        return found


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder; the paths of Ray's sockets in it are short enough for the system."""
    folder = Path(tempfile.mkdtemp(prefix="chaos", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_started(node: Killable) -> bool:
    wait_until(lambda: "--block" in node.printed() or not node.is_running, _START_SECONDS)
    return "--block" in node.printed()


def _await_start(node: Killable) -> None:
    if not _has_started(node):
        raise MerRayError(f"{shlex.join(node.command)}: a Ray node does not start: {node.printed()[-2000:]}")


def _free_port() -> int:
    for port in random.sample(_PORTS, len(_PORTS)):  # two that begin at once would both find the first one free
        with contextlib.suppress(OSError), socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            return port
    raise MerRayError("no free port for a Ray head")
