"""The job on a running cluster: ``ray start --head`` and ``ray job submit``, for real."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from mer_ray import config

pytestmark = pytest.mark.slow

RAY = str(Path(sys.executable).parent / "ray")
QUICK = ["fit.epochs=5", "fit.folds=2", "mining.rounds=0", "encoders={ngrams: {plugin: ngrams}}"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node with a dashboard: its address, and the environment that speaks to it."""
    root = tmp_path_factory.mktemp("cluster")
    port = free_port()
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "MER_RAY_RUNS": str(root / "runs")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--port=26379", f"--dashboard-port={port}"]
    command += ["--object-store-memory=150000000", "--disable-usage-stats", f"--temp-dir=/tmp/mer_ray_{os.getpid()}"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # the usual one may be another cluster's
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}", environment
    for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()


def submit(cluster: tuple[str, dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    address, environment = cluster
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", "python", "jobs/mine.py"]
    for attempt in range(15):
        done = subprocess.run(
            [*command, *arguments],
            env=environment,
            cwd=config.REPOSITORY,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        starting = "Failed to connect" in done.stderr or "try again later" in done.stderr
        if not starting or attempt == 14:
            break
        time.sleep(3)
    return done


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("brought") / "clips.csv"
    rows = [
        f"c{i},{'what a glad day' if i % 2 else 'this makes me cross'} {i},{('anger', 'happiness')[i % 2]}"
        for i in range(30)
    ]
    rows += [f"u{i},{'glad' if i % 2 else 'cross'} {i}," for i in range(10)]
    path.write_text("clip_id,text,label\n" + "\n".join(rows) + "\n")
    return path


def test_a_submitted_job_leaves_its_results_under_the_runs_folder(cluster, manifest):
    done = submit(cluster, f"data.manifest={manifest}", "run.dir=submitted", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = Path(cluster[1]["MER_RAY_RUNS"]) / "submitted"
    assert str(run_dir / "report.html") in done.stdout
    assert pq.read_table(run_dir / "predictions.parquet").num_rows == 40


def test_a_failing_job_fails_the_submit_and_its_last_lines_say_why(cluster):
    done = submit(cluster, "minig.rounds=3")
    assert done.returncode != 0
    last = done.stdout.splitlines()[-15:]  # the standard error holds what ray says of the upload
    assert any("unknown key minig; did you mean 'mining'" in line for line in last)
