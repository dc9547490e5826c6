"""Nodes, the head, memory and room in the object store are lost for real, and no clip is blamed that is not to be.

Each test asserts that its fault happened. What fails on one machine is in ``test_machine.py``.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from faults.conftest import free_ports
from killing import wait_for
from made_steps import rows_of, step_of, tries

from mer_ray.benchmarks.killable import Cluster, short_folder

pytestmark = [pytest.mark.faults, pytest.mark.slow]

BEGIN = """
import json, os, sys, threading, time
from pathlib import Path
import ray
import made_stages
from made_steps import step_of
from mer_ray.config import RuntimeConfig
from mer_ray.runtime.materialise import materialise
from mer_ray.stages.base import Resources
root = Path(sys.argv[1])
quiet = {"include_dashboard": False, "log_to_driver": False}
"""
LOST_NODES = """
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
ray.init(cluster.address, log_to_driver=False)
texts = {f"c{i}": "await kill" if i == 2 else "x" * i for i in range(6)}
ended, faults = [], []

def work():
    step = step_of(root, texts, batch_size=1)
    ended.append(materialise(step, {}, RuntimeConfig(), on_fault=faults.append))

working = threading.Thread(target=work)
working.start()
mark = root / "marks" / "c2.pid"
lost = []
for _ in range(2):
    while not mark.exists():
        time.sleep(0.1)
    pid = int(mark.read_text())
    lost.append(node.node_id)
    cluster.remove_node(node, allow_graceful=False)
    if len(lost) < 2:
        mark.unlink()  # so that it hangs once more
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
working.join()
dead = [one["NodeID"] for one in ray.nodes() if not one["Alive"]]
print(json.dumps({"lost": lost, "dead": dead, "errors": dict(ended[0].errors), "faults": len(faults)}))
ray.shutdown()
cluster.shutdown()
"""

MEMORY = """
import psutil
from ray._private.state import state
from ray.core.generated import common_pb2, gcs_pb2

memory = psutil.virtual_memory()
room = min(3 * 2**30, memory.available // 3)
os.environ["RAY_memory_usage_threshold"] = str((memory.total - memory.available + room) / memory.total)
os.environ["RAY_memory_monitor_refresh_ms"] = "100"
ray.init(address="local", num_cpus=2, object_store_memory=80 * 2**20, **quiet)
texts = {f"c{i:02}": "grow" if i == 5 else "sleep 0.5" for i in range(16)}

def make():
    return materialise(step_of(root, texts, batch_size=2), {}, RuntimeConfig())

made, again = make(), make()
workers = [gcs_pb2.WorkerTableData.FromString(one) for one in state._connect_and_get_accessor().get_worker_table()]
kills = sum(one.exit_type == common_pb2.WorkerExitType.NODE_OUT_OF_MEMORY for one in workers)
print(json.dumps({"errors": dict(made.errors), "kills": kills, "again": again.rows_made}))
"""
SPILLING = """
import zlib
import pyarrow as pa
from ray._private.internal_api import node_stats

class Wide(made_stages.LengthStage):
    def prepare(self, batch):
        frames = os.urandom(2**20) * 30
        return batch.append_column("frames", pa.array([frames])).append_column("crc", pa.array([zlib.crc32(frames)]))

    def process(self, batch):
        if zlib.crc32(batch["frames"][0].as_py()) != batch["crc"][0].as_py():
            raise AssertionError("not what was prepared")
        return super().process(batch.drop_columns(["frames", "crc"]))

import made_steps
made_steps.LengthStage = Wide
ray.init(address="local", num_cpus=3, num_gpus=1, object_store_memory=80 * 2**20, **quiet)
held = [bytes([i]) * (20 * 2**20) for i in range(3)]  # Ray Data sees to its own batches fitting, by themselves
refs = [ray.put(one) for one in held]

def make():
    step = step_of(root, {f"c{i:02}": "sleep 0.3" for i in range(12)}, batch_size=1)
    step.stage.resources = Resources(batch_size=1, gpus=1.0)
    return materialise(step, {}, RuntimeConfig())

made = make()
stats = node_stats(ray.nodes()[0]["NodeManagerAddress"], ray.nodes()[0]["NodeManagerPort"]).store_stats
whole = [ray.get(ref) for ref in refs] == held
figures = {"spilled": stats.spilled_bytes_total, "whole": whole, "again": make().rows_made}
print(json.dumps({"errors": dict(made.errors), **figures}))
"""
LOST_HEAD = """
from mer_ray.runtime.session import session

with session(RuntimeConfig()):
    made = materialise(step_of(root, {f"c{i:02}": "sleep 0.5" for i in range(48)}, batch_size=2), {}, RuntimeConfig())
print(json.dumps({"errors": dict(made.errors), "made": made.rows_made}))
"""
LATE_NODE = """
from mer_ray.data.storage import Store
from mer_ray.runtime import nodes
from mer_ray.runtime.session import session

faults = []
with session(RuntimeConfig()):
    step = step_of(root, {f"c{i:02}": "sleep 1" for i in range(60)}, batch_size=1)
    sight = nodes.ask([step], Store(str(root / "run")), Store(str(root / "tables")))
    made = materialise(step, {}, RuntimeConfig(), on_fault=faults.append, sight=sight)
print(json.dumps({"errors": dict(made.errors), "faults": [fault.what for fault in faults]}))
"""


def driver(script: str, root: Path, **environment: str) -> subprocess.Popen[str]:
    """A job of its own, with a Ray of its own or that of ``RAY_ADDRESS``."""
    more = {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    command = [sys.executable, "-c", BEGIN + script, str(root)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, **more}, text=True, **pipes)


def told(job: subprocess.Popen[str]) -> dict:
    """What a job tells in its last line; it must end well."""
    out, err = job.communicate(timeout=500)
    assert job.returncode == 0, err
    return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])  # Ray may tell of nodes after it


def test_two_nodes_lost_under_one_clip_do_not_make_it_one_that_crashes(tmp_path):
    found = told(driver(LOST_NODES, tmp_path))
    assert len(found["lost"]) == 2
    assert set(found["lost"]) <= set(found["dead"])
    assert tries(tmp_path, "c2") == 3, "its nodes were not lost while it was in work"
    assert found["errors"] == {}
    rows = rows_of(step_of(tmp_path, {}))
    assert {clip_id: row["letters"] for clip_id, row in rows.items()} == {
        f"c{i}": len("await kill") if i == 2 else i for i in range(6)
    }


def test_of_workers_that_are_ended_for_want_of_memory_only_the_clip_that_grew_is_blamed(tmp_path):
    found = told(driver(MEMORY, tmp_path))
    assert found["kills"] > tries(tmp_path, "c05") >= 4, "no bystander was ended with it"
    assert found["errors"] == {"out_of_memory": 1}
    assert found["again"] == 0
    rows = rows_of(step_of(tmp_path, {}))
    assert len(rows) == 16
    assert {clip_id: row["error"] for clip_id, row in rows.items() if row["error"]} == {"c05": "out_of_memory"}


def test_what_does_not_fit_the_object_store_beside_the_batches_goes_over_the_disk_and_all_arrives_whole(tmp_path):
    found = told(driver(SPILLING, tmp_path))
    assert found["spilled"] > 0, "all fitted"
    assert found["whole"]
    assert found["errors"] == {}
    assert found["again"] == 0
    assert {row["letters"] for row in rows_of(step_of(tmp_path, {})).values()} == {len("sleep 0.3")}


@pytest.fixture
def node(tmp_path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """What starts a node by the options of ``ray start`` and the words before it; all end with the test."""
    nodes: list[subprocess.Popen[bytes]] = []

    def start(*options: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats"]
        told = tmp_path / f"node{len(nodes)}.log"
        with told.open("w") as log:
            command = [*before, *ray, "--object-store-memory=80000000", *options]
            nodes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
            )
        deadline = time.time() + 120
        while "--block" not in told.read_text():
            assert time.time() < deadline, told.read_text()
            time.sleep(0.2)
        return nodes[-1]

    yield start
    for one in nodes:
        end(one)
    shutil.rmtree(_logs(), ignore_errors=True)


def cluster(node: Callable[..., subprocess.Popen[bytes]], cpus: int) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a head without CPUs and a worker; their address and the head."""
    port = free_ports(28400)
    place = (f"--port={port}", f"--temp-dir={_logs()}", "--node-ip-address=127.0.0.1")
    head = node("--head", "--num-cpus=0", "--include-dashboard=false", *place)
    node(f"--address=127.0.0.1:{port}", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.21")
    return f"127.0.0.1:{port}", head


def _logs() -> str:
    return f"/tmp/lost{os.getpid()}"  # the paths of sockets are short


def end(node: subprocess.Popen[bytes]) -> None:
    """Kill all processes of a node, as power is lost."""
    if node.poll() is None:
        started = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()


def parts(root: Path) -> set[str]:
    return {name for name in step_of(root, {}).table.store.files() if name.endswith(".parquet") and name[0] != "_"}


def test_a_lost_head_ends_the_job_and_the_same_command_continues_on_another_one(tmp_path, node):
    address, head = cluster(node, cpus=2)
    job = driver(LOST_HEAD, tmp_path, RAY_ADDRESS=address)
    wait_for(job, lambda: len(parts(tmp_path)) >= 3)
    end(head)
    _, err = job.communicate(timeout=200)
    assert job.returncode != 0, "the job did not miss its head"
    time.sleep(3)  # what the worker node had in work
    before = parts(tmp_path)
    assert 3 <= len(before) < 24, err
    found = told(driver(LOST_HEAD, tmp_path, RAY_ADDRESS=cluster(node, cpus=2)[0]))
    assert found == {"errors": {}, "made": 48 - 2 * len(before)}
    assert before <= parts(tmp_path)
    assert len(rows_of(step_of(tmp_path, {}))) == 48


def test_a_node_that_comes_later_and_does_not_see_the_tables_is_told_of_and_makes_no_row(tmp_path, node):
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*alone, "true"], check=False).returncode:
        alone += ["--user", "--map-root-user"]
    if subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("needs root, or user namespaces: the node is to have mounts of its own")
    hide = ["bash", "-c", 'mount -t tmpfs tmpfs "$0"; mount -t tmpfs tmpfs /dev/shm; exec "$@"', str(tmp_path)]
    address, _ = cluster(node, cpus=1)
    job = driver(LATE_NODE, tmp_path, RAY_ADDRESS=address)
    wait_for(job, lambda: len(parts(tmp_path)) >= 2)
    node(f"--address={address}", "--num-cpus=1", "--node-ip-address=127.0.0.22", before=[*alone, *hide])
    found = told(job)
    assert found["faults"], "the node had no work"
    assert all("tables/_probe is not seen there" in what and "set tables.dir" in what for what in found["faults"])
    assert found["errors"] == {}
    assert len(rows_of(step_of(tmp_path, {}))) == 60


def test_a_head_that_is_started_again_at_once_at_its_address_ends_the_job_too(tmp_path):
    with short_folder() as folder, contextlib.ExitStack() as stack:
        cluster = Cluster(folder, 1)
        stack.callback(cluster.kill)
        cluster.start_head()
        cluster.start_nodes()
        job = driver(LOST_HEAD, tmp_path, RAY_ADDRESS=cluster.address)
        stack.callback(job.kill)
        wait_for(job, lambda: len(parts(tmp_path)) >= 3)
        cluster.head.kill()
        cluster.start_head()
        _, err = job.communicate(timeout=120)
        assert job.returncode == 1, err
        assert "give the same command again" in err
