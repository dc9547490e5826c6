"""A cluster that grows and shrinks, on one machine: a head without CPUs, and workers that Ray's autoscaler starts.

``ray.cluster_utils.AutoscalingCluster`` lacks a file in the wheel, which a provider called external does not need.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

IDLE_SECONDS = 20
"""After which a worker without work goes."""
_START_SECONDS = 120
_STORE_BYTES = 100 * 2**20
_UNUSED = (
    *("docker", "auth", "file_mounts"),
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
"""Keys that the autoscaler wants, of what a cloud would do."""


@contextlib.contextmanager
def growing(folder: Path, port: int, worker: dict[str, float], most: int) -> Iterator[str]:
    """The address of a cluster of 0 to ``most`` workers for the block, each with these resources.

    Args:
        folder: for its configuration; what Ray writes lies in ``/tmp``, since the paths of sockets are short.
        port: of the head, one that is free.
        worker: the resources of each worker, such as ``{"CPU": 2, "GPU": 1}``.
        most: workers that there may be at once.
    """
    address = f"127.0.0.1:{port}"
    path, logs = folder / "autoscaling.json", f"/tmp/grow{os.getpid()}"
    path.write_text(json.dumps(_configured(address, worker, most)))
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    environment |= {"RAY_enable_autoscaler_v2": "1", "RAY_AUTH_MODE": "disabled"}
    environment |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", f"--autoscaling-config={path}", f"--temp-dir={logs}"]
    command += [f"--object-store-memory={_STORE_BYTES}", "--include-dashboard=false", "--disable-usage-stats"]
    with (folder / "head.log").open("w+") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _await(folder / "head.log", head)
            yield address
        finally:
            started = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(started)
            shutil.rmtree(logs, ignore_errors=True)


def _configured(address: str, worker: dict[str, float], most: int) -> dict[str, object]:
    module = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
    provider: dict[str, object] = {"type": "external", "module": module, "gcs_address": address}
    provider |= {"head_node_id": FAKE_HEAD_NODE_ID}
    provider |= dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True)
    workers = {"resources": {**worker, "object_store_memory": _STORE_BYTES}, "node_config": {}}
    unused: dict[str, object] = {key: {} if key in ("docker", "auth", "file_mounts") else [] for key in _UNUSED}
    return unused | {
        "cluster_name": "growing",
        "max_workers": most,
        "provider": {**provider, "launch_multiple": True},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {**workers, "min_workers": 0, "max_workers": most},
        },
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "file_mounts_sync_continuously": False,
    }


def _await(log: Path, head: subprocess.Popen[bytes]) -> None:
    deadline = time.time() + _START_SECONDS
    while "--block" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.time() < deadline, log.read_text()
        time.sleep(0.2)
