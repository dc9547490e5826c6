"""Workers with GPUs come when a step wants some, and go; the head, which has none, does nothing but drive."""

import json
import os
import subprocess
import sys

import pytest
from fake_autoscaler import growing
from faults.conftest import free_ports
from made_steps import rows_of, step_of

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MOST = 2
DRIVER = """
import json, os, sys, threading, time
from pathlib import Path
import ray, torch
import made_stages, made_steps
from mer_ray.config import RuntimeConfig
from mer_ray.data.storage import Store
from mer_ray.runtime import nodes
from mer_ray.runtime.materialise import materialise
from mer_ray.runtime.session import session
from mer_ray.stages.base import Resources

root = Path(sys.argv[1])

class OnGpu(made_stages.LengthStage):
    def note(self, what):
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        with (self.marks / what).open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()} {gpus}\\n")

    def setup(self):
        self.note("setup")

    def prepare(self, batch):
        self.note("prepare")
        return batch

    def process(self, batch):
        self.note("process")
        return super().process(batch)

def count():
    return sum(node["Alive"] for node in ray.nodes()) - 1

def watch():
    while not over.wait(0.2):
        if counts[-1] != (there := count()):
            counts.append(there)

made_steps.LengthStage = OnGpu
with session(RuntimeConfig()):
    counts, over = [count()], threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    step = made_steps.step_of(root, {f"c{i:02}": "sleep 2" for i in range(60)}, batch_size=1)
    step.stage.resources = Resources(batch_size=1, gpus=1.0)
    sight = nodes.ask([step], Store(str(root / "run")), Store(str(root / "tables")))
    materialise(step, {}, RuntimeConfig(), sight=sight)
    deadline = time.time() + 120
    while count() and time.time() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    over.set()
    watching.join()
    head = ray.get_runtime_context().get_node_id()
print(json.dumps({"counts": counts, "head": head, "cuda": torch.cuda.is_initialized()}))
"""


def test_a_step_on_gpus_brings_workers_up_to_their_most_and_they_go_when_it_is_done(tmp_path):
    with growing(tmp_path, free_ports(27400), {"CPU": 2, "GPU": 1}, MOST) as address:
        environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", DRIVER, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["counts"][0], max(told["counts"]), told["counts"][-1]) == (0, MOST, 0)
    rows = rows_of(step_of(tmp_path, {}))
    assert len(rows) == 60
    assert not any(row["error"] for row in rows.values())
    noted = {what: (tmp_path / "marks" / what).read_text().split("\n")[:-1] for what in ("setup", "prepare", "process")}
    where = {what: {line.split(" ")[0] for line in lines} for what, lines in noted.items()}
    assert len(where["process"]) == MOST, "a worker that came had no work"
    assert told["head"] not in set().union(*where.values())
    assert all(line.split(" ")[1] for line in noted["setup"] + noted["process"]), "work on a GPU was given none"
    assert not told["cuda"]
