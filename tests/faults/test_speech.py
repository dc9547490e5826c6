"""A folder job is killed for real amid denoising, which also recognises, and continued by the same command."""

import subprocess
import sys

import made_runs
import made_speech
import pyarrow.parquet as pq
import pytest
from killing import kill_when

from mer_ray import config

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def parts(run_dir, step):
    return set(run_dir.glob(f"tables/{step}/*/[!_]*.parquet"))


def test_recordings_end_with_the_same_labels_and_transcripts(tmp_path):
    manifest = made_speech.recordings(tmp_path, 12)

    def command(run_dir):
        script = str(config.REPOSITORY / "jobs" / "mine.py")
        told = (f"data.manifest={manifest}", *made_speech.OPTIONS, *made_runs.QUICK, "denoise.batch_size=2")
        files = ("--config", str(config.CONFIGS / "folder.yaml"))
        return [sys.executable, script, *files, f"run.dir={run_dir}", "runtime.num_cpus=2", *told]

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(undisturbed), check=True, timeout=400, stdout=subprocess.DEVNULL)
    kill_when(command(killed), lambda: len(parts(killed, "audio")) >= 2)
    made = {part: part.stat().st_mtime_ns for part in parts(killed, "audio")}
    assert 2 <= len(made) < 6
    subprocess.run(command(killed), check=True, timeout=400, stdout=subprocess.DEVNULL)
    assert {part: part.stat().st_mtime_ns for part in made} == made, "committed parts were made again"
    expected = pq.read_table(undisturbed / "predictions.parquet")
    assert pq.read_table(killed / "predictions.parquet").equals(expected)
    for step in ("audio", "transcript"):
        rows = [
            {row["clip_id"]: row for part in parts(run_dir, step) for row in pq.read_table(part).to_pylist()}
            for run_dir in (undisturbed, killed)
        ]
        assert rows[0] == rows[1]
        assert len(rows[0]) == 12
