"""The whole job is killed for real, at three moments, and continued by the same command."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from killing import kill_when

from mer_ray import config

pytestmark = [pytest.mark.faults, pytest.mark.slow]

OVERRIDES = [
    "data.demo.num_clips=60",
    "faces.enabled=false",
    "evaluation.ablations=false",
    "mining.rounds=1",
    "fit.epochs=10",
    "max_error_fraction=1.0",
    "runtime.num_cpus=2",
]


def command(run_dir: Path, clips: Path) -> list[str]:
    script = config.REPOSITORY / "jobs" / "mine.py"
    return [sys.executable, str(script), f"run.dir={run_dir}", f"data.demo.dir={clips}", *OVERRIDES]


def parts(run_dir: Path, step: str) -> set[Path]:
    return set(run_dir.glob(f"tables/{step}/*/[!_]*.parquet"))


def test_a_job_killed_at_three_moments_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    clips, undisturbed, killed = tmp_path / "clips", tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(undisturbed, clips), check=True, timeout=600, stdout=subprocess.DEVNULL)

    kill_when(command(killed, clips), lambda: len(parts(killed, "audio")) >= 1)
    audio = {part: part.stat().st_mtime_ns for part in parts(killed, "audio")}
    kill_when(command(killed, clips), lambda: len(parts(killed, "egemaps")) >= 1)
    assert {part: part.stat().st_mtime_ns for part in audio} == audio, "committed parts were written again"
    kill_when(command(killed, clips), lambda: len(list(killed.glob("rounds/00/*/metrics.json"))) >= 1)
    models = [path.parent / "model.safetensors" for path in killed.glob("rounds/00/*/metrics.json")]
    fitted = {model: model.stat().st_mtime_ns for model in models}
    subprocess.run(command(killed, clips), check=True, timeout=600, stdout=subprocess.DEVNULL)

    assert {model: model.stat().st_mtime_ns for model in models} == fitted, "a fitted learner was fitted again"
    expected = pq.read_table(undisturbed / "predictions.parquet")
    assert pq.read_table(killed / "predictions.parquet").equals(expected)
    assert (killed / "submission.csv").read_bytes() == (undisturbed / "submission.csv").read_bytes()
    for step in ("audio", "transcript", "egemaps", "ngrams"):
        ids = [clip_id for part in parts(killed, step) for clip_id in pq.read_table(part)["clip_id"].to_pylist()]
        assert len(ids) == len(set(ids)) == 60, f"{step}: clips lost or doubled"
