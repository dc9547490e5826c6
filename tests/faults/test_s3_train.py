"""Training with everything but the media in S3, killed and continued, on a real server."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from killing import kill_when

from mer_ray import config
from mer_ray.config import EncoderConfig
from mer_ray.data.storage import Store
from mer_ray.encoders import hubert
from mer_ray.runtime.journal import Journal
from mer_ray.stages.encode import EncodeStage

pytestmark = [pytest.mark.s3, pytest.mark.slow]


def command(run_dir: Store, weights: Store, folder: Path) -> list[str]:
    encoder = f"{{plugin: hubert, options: {{weights: {{source: {weights}}}, layers: 2}}}}"
    return [
        sys.executable,
        str(config.REPOSITORY / "jobs/train_encoder.py"),
        *("--config", "train/speech_adapters.tiny.yaml"),
        f"task.options.encoder={encoder}",
        f"run.dir={run_dir}",
        f"data.demo.dir={folder}/clips",
        "optimization.epochs=3",
    ]


def events(run_dir: Store, kind: str) -> list[dict[str, object]]:
    return [event for event in Journal(run_dir).events() if event["event"] == f"training_{kind}"]


def complete(run_dir: Store) -> list[str]:
    return [name for name in run_dir.details("checkpoints", deep=True) if name.endswith("complete.json")]


def test_a_killed_training_goes_on_from_its_checkpoint_and_its_encoder_loads(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    run_dir, weights = store / "run", store / "weights"
    for path in Path(hubert.tiny().config.weights.source).iterdir():
        weights.write(path.name, path.read_bytes())
    line = command(run_dir, weights, tmp_path)
    kill_when(line, lambda: bool(complete(run_dir)))
    done = subprocess.run(line, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(run_dir, "started")[0]["step"] == 0
    assert events(run_dir, "started")[-1]["step"] >= 3
    entry = yaml.safe_load(run_dir.read("encoder.yaml"))["encoders"]["adapted"]
    assert entry["options"]["adapters"] == run_dir.path("weights/adapters.safetensors")
    stage = EncodeStage("adapted", EncoderConfig(**entry), 60.0)
    stage.setup()
