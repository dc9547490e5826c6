import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from mer_ray.benchmarks import job
from mer_ray.benchmarks.harness import peak_memory
from mer_ray.data import manifest, ready
from mer_ray.types import Split

SMALL = job.Config(labelled=60, pool=90, test=30, audio=16, video=12, text=20, classes=3)


def started(code):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_files_are_those_of_a_user_and_only_known_clips_have_labels(tmp_path):
    job.make(tmp_path, SMALL)
    clips = manifest.read(str(tmp_path / "clips.csv")).clips
    splits = [clip.split for clip in clips]
    assert [splits.count(split) for split in (Split.TRAIN, Split.TEST, Split.UNLABELED)] == [60, 30, 60]
    assert all((clip.label is None) == (clip.split is Split.UNLABELED) for clip in clips)
    found = ready.discover(str(tmp_path / "features"), {})
    assert [(feature.name, feature.modality) for feature in found] == [(name, name) for name in sorted(SMALL.widths)]
    for feature in found:
        loaded = ready.load(feature, [clip.clip_id for clip in clips])
        assert loaded.feature.values.shape == (150, SMALL.widths[feature.name])
        assert loaded.feature.values.dtype == np.float16
        assert loaded.feature.present.all()
        assert not loaded.quarantine


def test_silence_is_the_longest_time_without_output():
    told = (
        "import time\nprint(1, flush=True)\ntime.sleep(1.5)\nprint(2, flush=True)\ntime.sleep(.2)\nraise SystemExit(4)"
    )
    with started(told) as child:
        watched = job.watch(child)
    assert (watched.exit_code, watched.output) == (4, "1\n2\n")
    assert 1.4 < watched.longest_silence_seconds < watched.seconds
    with started("import time; print(1, flush=True); time.sleep(1.5)") as child:
        assert job.watch(child).longest_silence_seconds > 1.4


def test_memory_is_that_of_the_command_and_its_children_alone():
    child = "import time; held = bytearray(b'x' * 100 * 2**20); time.sleep(3)"
    mine = np.ones(300 * 2**20, np.uint8)
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with started(code) as parent, peak_memory(parent.pid) as memory:
        job.watch(parent)
    assert 100 * 2**20 < memory.peak_bytes < mine.nbytes


@pytest.mark.slow
def test_a_small_job_is_measured():
    settings = SMALL.model_copy(
        update={"overrides": ["fit.epochs=2", "fit.folds=2", "fit.hidden=8", "mining.rounds=1", "runtime.num_cpus=2"]}
    )
    figures = job.run(settings, Console(quiet=True))
    assert "failed" not in figures
    assert figures["seconds"].keys() >= {"mining", "explain", "report", "round_0"}
    assert figures["seconds"]["round_0"] < figures["seconds"]["mining"] < figures["job_seconds"]
    assert 0 < figures["longest_silence_seconds"] < figures["job_seconds"]
    assert figures["peak_memory_bytes"] > 2**26
    assert 0 <= figures["waf"] <= 1


def test_a_command_that_fails_is_told():
    figures = job.run(SMALL.model_copy(update={"overrides": ["fit.epoch=2"]}), Console(quiet=True))
    assert figures["failed"]["job"].startswith("exit code 2: error: ")
