"""A cluster by the commands of ``cluster/aws.yaml``: a head without CPUs, a worker, and a token between them."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from mer_ray import config

pytestmark = pytest.mark.slow

RAY = str(Path(sys.executable).parent / "ray")
ROOT = Path(config.REPOSITORY)
QUICK = ("fit.epochs=2", "fit.folds=2", "mining.rounds=0", "encoders={ngrams: {plugin: ngrams}}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(spec: dict[str, list[str]], node: str, replaced: dict[str, str], *more: str) -> list[str]:
    """The ``ray start`` that the file gives a node, on this machine's ports and in a folder of the test."""
    (line,) = [line for line in spec[f"{node}_start_ray_commands"] if line.startswith("ray start")]
    for old, new in replaced.items():
        assert old in line
        line = line.replace(old, new)
    return [RAY, *shlex.split(line)[1:], "--block", "--disable-usage-stats", *more]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard's address and the environment of one who has the token.

    Jobs find the code where the nodes are started, as in the image. Two nodes of one machine share the folder of a
    submitted working directory, and the one that is done with it first would delete it.
    """
    root = tmp_path_factory.mktemp("cluster")
    spec = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())
    port, gcs = free_port(), free_port()
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "HOME": str(root), "MER_RAY_RUNS": str(root / "runs")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment |= {"MER_RAY_AGAIN_SECONDS": "0"}
    environment.pop("RAY_ADDRESS", None)
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    spill = {"/home/ray/spill": str(root / "spill")}
    temporary = f"--temp-dir=/tmp/mer_ray_c{os.getpid()}"
    head = started(
        spec,
        "head",
        {"--port=6379": f"--port={gcs}", " --autoscaling-config=~/ray_bootstrap_config.yaml": "", **spill},
        temporary,
        f"--dashboard-port={port}",
        f"--dashboard-agent-listen-port={free_port()}",
        "--object-store-memory=100000000",
    )
    worker = started(
        spec,
        "worker",
        {"$RAY_HEAD_IP:6379": f"127.0.0.1:{gcs}", **spill},
        "--num-cpus=2",
        f"--dashboard-agent-listen-port={free_port()}",
        "--object-store-memory=150000000",
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    nodes = [subprocess.Popen(head, env=environment, cwd=ROOT, **quiet)]  # type: ignore[call-overload]
    address = f"http://127.0.0.1:{port}"
    wait_for(address, environment)
    nodes.append(subprocess.Popen(worker, env=environment, cwd=ROOT, **quiet))  # type: ignore[call-overload]
    yield address, environment
    for node in reversed(nodes):
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()


def wait_for(address: str, environment: dict[str, str]) -> None:
    for _ in range(60):
        done = ray("job", "list", "--address", address, environment=environment)
        if done.returncode == 0:
            return
        time.sleep(1)
    pytest.fail(f"the head did not come: {done.stderr}")


def ray(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )


def submit(cluster: tuple[str, dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    address, environment = cluster
    words = ("bash", "cluster/again.sh", "python", "jobs/mine.py")
    return ray("job", "submit", "--address", address, "--", *words, *arguments, environment=environment)


def test_without_the_token_nothing_is_told(cluster: tuple[str, dict[str, str]]) -> None:
    address, environment = cluster
    assert requests.get(f"{address}/api/jobs/", timeout=30).status_code == 401
    token = (Path(environment["HOME"]) / ".ray" / "auth_token").read_text()
    given = {"Authorization": f"Bearer {token}"}
    assert requests.get(f"{address}/api/jobs/", headers=given, timeout=30).status_code == 200


def test_a_job_runs_on_workers_alone_and_is_not_tried_again(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """Exit 2 is the last word of the first try; a job that ends well needs no CPU of the head."""
    bad = submit(cluster, f"data.manifest={tmp_path / 'none.csv'}")
    assert bad.returncode != 0
    assert "exit code 2" in bad.stdout + bad.stderr
    assert "once more" not in bad.stdout + bad.stderr
    rows = [f"c{i},{('so glad', 'how cross')[i % 2]} {i},{('happiness', 'anger')[i % 2]}" for i in range(30)]
    (tmp_path / "clips.csv").write_text("clip_id,text,label\n" + "\n".join([*rows, "u1,glad,", "u2,cross,"]) + "\n")
    done = submit(cluster, f"data.manifest={tmp_path / 'clips.csv'}", "run.dir=first", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(cluster[1]["MER_RAY_RUNS"]) / "first" / "report.html").exists()
