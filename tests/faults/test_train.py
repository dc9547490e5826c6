"""Training is killed for real: a worker, the driver, and both while a checkpoint is written."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from killing import kill, wait_for
from safetensors.numpy import load_file

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SCRIPT = """
import sys
import time
import ray
from mer_ray import config
from mer_ray.pipelines import train_encoder

def slowly():
    from mer_ray.data.storage import Store
    write = Store.write
    def later(self, name, data):
        if "state-0001" in name:  # the second worker's share; the first one's is there at once
            time.sleep(6)
        write(self, name, data)
    Store.write = later

hook = {"worker_process_setup_hook": slowly} if sys.argv[1] == "slow" else None
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=hook)
settings = config.load(config.TrainConfig, "train/speech_finetune.tiny.yaml", sys.argv[2:])
sys.exit(train_encoder.run(settings))
"""


class Run:
    """A run directory and the job that fills it."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder = folder
        self.overrides = [
            f"run.dir={folder}",
            f"data.demo.dir={shared}/clips",
            f"tables.dir={shared}/tables",
            "optimization.epochs=3",
        ]

    def start(self, how: str = "fast", *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, how, *self.overrides, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, *more: str) -> None:
        job = self.start("fast", *more)
        told, _ = job.communicate(timeout=400)
        assert job.returncode == 0, told

    def killed_behind_an_epoch(self) -> None:
        job = self.start()
        wait_for(job, lambda: len(self.events("epoch")) >= 1)
        kill(job)

    def events(self, kind: str) -> list[dict[str, object]]:
        file = self.folder / "events.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == f"training_{kind}"]

    def checkpoints(self) -> dict[str, bool]:
        """Those that are there, and whether they are complete."""
        return {path.name: (path / "complete.json").exists() for path in self.folder.glob("checkpoints/*/*")}

    def weights(self) -> dict[str, object]:
        return load_file(self.folder / "weights/model.safetensors")


def workers(job: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(job.pid).children(recursive=True) if "RayTrainWorker" in "".join(p.cmdline())]


def same(one: Run, other: Run) -> bool:
    a, b = one.weights(), other.weights()
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def undisturbed(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"), shared)
    run.finish()
    return run


def test_a_lost_worker_is_replaced_and_the_weights_are_the_same(undisturbed: Run, shared: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, shared)
    job = run.start()
    wait_for(job, lambda: len(run.events("epoch")) >= 1)
    workers(job)[0].kill()
    told, _ = job.communicate(timeout=400)
    assert job.returncode == 0, told
    assert len(run.events("started")) == 2
    assert run.events("started")[1]["step"] >= 3, "it went on from the first epoch's checkpoint"
    assert same(run, undisturbed)


def test_a_killed_job_goes_on_and_the_weights_are_the_same(undisturbed: Run, shared: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, shared)
    run.killed_behind_an_epoch()
    run.finish()
    assert run.events("started")[1]["step"] >= 3
    assert same(run, undisturbed)


def test_a_checkpoint_cut_off_is_never_gone_on_from(undisturbed: Run, shared: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, shared)
    job = run.start("slow")
    wait_for(job, lambda: "00000006" in run.checkpoints())
    kill(job)
    assert run.checkpoints() == {"00000003": True, "00000006": False}
    run.finish()
    assert run.events("started")[1]["step"] == 3
    assert all(run.checkpoints().values())
    assert same(run, undisturbed)


def test_one_worker_goes_on_with_what_two_wrote(undisturbed: Run, shared: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, shared)
    run.killed_behind_an_epoch()
    run.finish("optimization.workers=1")
    assert run.events("started")[1]["step"] >= 3
    one, other = run.weights(), undisturbed.weights()
    assert max(abs(one[name] - other[name]).max() for name in one) < 1e-2
