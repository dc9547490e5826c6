"""How a job comes by its Ray."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import ray

from mer_ray.config import RuntimeConfig
from mer_ray.runtime import session as sessions
from mer_ray.runtime.session import session

HELD_UP = """
import sys, threading, time
import psutil, ray
from mer_ray.config import RuntimeConfig
from mer_ray.runtime.session import session

def hold_up(starts):
    held = set()
    while len(held) < starts:
        for child in psutil.Process().children():
            if child.name() == "raylet" and child.pid not in held:
                child.suspend()
                held.add(child.pid)
                print(child.pid, flush=True)
        time.sleep(0.001)

threading.Thread(target=hold_up, args=(int(sys.argv[1]),), daemon=True).start()
with session(RuntimeConfig(num_cpus=1)):
    print(ray.get(ray.remote(lambda: "works").remote()))
"""


def test_the_ray_of_this_process_is_used_and_stays(ray_cluster):
    node = ray.get_runtime_context().get_node_id()
    with session(RuntimeConfig(num_cpus=1)):
        assert ray.get_runtime_context().get_node_id() == node
    assert ray.is_initialized()


def test_the_object_store_has_room_for_what_it_is_to_hold_as_far_as_there_is_memory(monkeypatch, tmp_path):
    gib = 2**30
    monkeypatch.setattr(sessions, "_SHARED", tmp_path)
    shared, memory = SimpleNamespace(free=8 * gib), SimpleNamespace(available=10 * gib)
    monkeypatch.setattr(sessions.shutil, "disk_usage", lambda path: shared)
    monkeypatch.setattr(sessions.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(sessions, "get_system_memory", lambda: gib)
    least = sessions.store_bytes(RuntimeConfig(), 0)
    assert least == 400 * 2**20
    assert sessions.store_bytes(RuntimeConfig(), 3 * gib) == least + 3 * gib
    assert sessions.store_bytes(RuntimeConfig(), 9 * gib) == 5 * gib, "half of the memory that is free"
    shared.free = 2 * gib
    assert sessions.store_bytes(RuntimeConfig(), 9 * gib) == int(1.8 * gib)
    shared.free = 0
    assert sessions.store_bytes(RuntimeConfig(), 9 * gib) == least, "as small as it ever was"
    assert sessions.store_bytes(RuntimeConfig(object_store_bytes=gib), 9 * gib) == gib, "as it is told"
    shared.free = 8 * gib
    monkeypatch.setattr(sessions, "get_system_memory", lambda: 10 * gib)
    assert sessions.store_bytes(RuntimeConfig(), 0) == 3 * gib, "of what the container may use"


def test_what_a_store_cannot_hold_is_told(ray_cluster):
    assert sessions.short_of(100 * 2**20) is None
    told = sessions.short_of(3000 * 2**20)
    assert "take 3,000 MiB of Ray's object store, which has 150:" in told
    assert "runtime.object_store_bytes" in told


@pytest.mark.slow
def test_a_ray_that_is_held_up_is_started_again():
    done = subprocess.run([sys.executable, "-c", HELD_UP, "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held, *told, works = done.stdout.splitlines()
    assert works == "works"
    assert told[0].startswith("starting Ray: (2"), "half a minute is not waited in silence"
    assert not psutil.pid_exists(int(held))


@pytest.mark.slow
def test_a_machine_that_is_too_busy_for_ray_is_told_of():
    done = subprocess.run([sys.executable, "-c", HELD_UP, "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MerRayError: Ray did not start" in done.stderr
    held = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert len(held) == 2
    assert not any(psutil.pid_exists(one) for one in held)
