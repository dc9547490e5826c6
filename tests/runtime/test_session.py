"""How a job comes by its Ray."""

import subprocess
import sys

import psutil
import pytest
import ray

from mer_ray.config import RuntimeConfig
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


@pytest.mark.slow
def test_a_ray_that_is_held_up_is_started_again():
    done = subprocess.run([sys.executable, "-c", HELD_UP, "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held, works = done.stdout.split()
    assert works == "works"
    assert not psutil.pid_exists(int(held))


@pytest.mark.slow
def test_a_machine_that_is_too_busy_for_ray_is_told_of():
    done = subprocess.run([sys.executable, "-c", HELD_UP, "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MerRayError: Ray did not start" in done.stderr
    assert not any(psutil.pid_exists(int(held)) for held in done.stdout.split())
