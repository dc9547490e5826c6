"""A run of ``mining.strategy=auto`` is killed for real between its candidates and amid the last, and continued."""

import json
import subprocess
import sys

import in_process
import made_runs
import pyarrow.parquet as pq
import pytest
from killing import kill_when
from made_job import SMALL_RAY

pytestmark = [pytest.mark.faults, pytest.mark.slow]

OPTIONS = ("mining={strategy: auto, rounds: 1}", "evaluation.ablations=false")
JOB = """
import runpy
import sys
from pathlib import Path
from mer_ray import config, progress

tell, told = progress.tell, Path(sys.argv[1])

def written(share, what):
    with told.open("a") as file:
        file.write(what + chr(10))
    tell(share, what)

progress.tell = written
sys.argv = [str(config.REPOSITORY / "jobs" / "mine.py"), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The job, which also writes how far its fits are."""


def fitted(run_dir):
    """The learners whose fits are finished."""
    return {path.parent.name for path in run_dir.glob("rounds/0?/*/metrics.json")}


def figures(run_dir):
    """``metrics.json`` without how long the steps took."""
    return {key: value for key, value in json.loads((run_dir / "metrics.json").read_text()).items() if key != "seconds"}


def test_a_run_killed_between_two_candidates_and_in_the_last_fit_ends_as_an_undisturbed_one(tmp_path):
    undisturbed, killed, told = tmp_path / "undisturbed", tmp_path / "killed", tmp_path / "told"
    options = [*made_runs.vectors(tmp_path), *OPTIONS]
    command = [sys.executable, "-c", JOB, str(told), *options, *SMALL_RAY, f"run.dir={killed}"]
    assert in_process.run("mine", *options, f"run.dir={undisturbed}") == 0

    kill_when(command, lambda: fitted(killed) & {"linear", "lda"})
    first = fitted(killed)
    assert first & {"linear", "lda"}
    assert not first & {"lda_em", "student"}
    models = {path: path.stat().st_mtime_ns for path in killed.glob("rounds/*/*/model.safetensors")}

    kill_when(command, lambda: told.exists() and "0 of 1 fits, epoch" in told.read_text())
    assert fitted(killed) == fitted(undisturbed) - {"student"}, "the student is being fitted, and is the last"
    models |= {path: path.stat().st_mtime_ns for path in killed.glob("rounds/*/*/model.safetensors")}
    subprocess.run(command, check=True, timeout=400, stdout=subprocess.DEVNULL)

    assert {path: path.stat().st_mtime_ns for path in models} == models, "a fitted learner was fitted again"
    assert pq.read_table(killed / "predictions.parquet").equals(pq.read_table(undisturbed / "predictions.parquet"))
    assert figures(killed) == figures(undisturbed)
    assert [name for name, one in figures(killed)["candidates"].items() if one["chosen"]] == ["mean"]
