"""A dry run of any job leaves every file as it was, and asks nobody."""

import hashlib
import shutil
import sys
import tempfile
from importlib import import_module

import made_experiment as made
import made_finished
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from huggingface_hub import constants

from mer_ray import config, registry
from mer_ray.data.storage import Store
from mer_ray.pipelines import features, mine, planning, results, source
from mer_ray.pretrained.weights import only_here
from mer_ray.runtime.journal import Journal

CLASSES = {"anger": "a cross word", "joy": "a glad word"}
SOCKETS = []
_WATCHED = {"socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo"}
sys.addaudithook(lambda event, arguments: SOCKETS.append((event, arguments)) if event in _WATCHED else None)

HUB = {"plugin": "text_bert", "options": {"weights": {"source": "nobody/nothing", "revision": "0" * 40}}}
S3 = {"plugin": "text_bert", "options": {"weights": {"source": "s3://nowhere/bert"}}}
WORDS = {"plugin": "ngrams"}
HINT = {"endpoint": "http://127.0.0.1:9", "model": "m", "classes": list(CLASSES)}
HINTED = {"plugin": "text_bert", "hint": "before", "options": {"weights": {"source": "local"}}}
DEMO = {"layout": "demo", "demo": {"num_clips": 40, "labelled": 0.4}}
CLIPS = {"layout": "manifest", "manifest": "clips.csv"}
JOBS = {
    "mine": config.MineConfig,
    "extract": config.ExtractConfig,
    "probe": config.ProbeConfig,
    "predict": config.PredictConfig,
    "tune": config.TuneConfig,
    "train_encoder": config.TrainConfig,
    "why": config.WhyConfig,
}


def tree(root):
    """Every file and folder: kind, time and content; of the folder for temporary files not the time."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        changed = None if path == root / "tmp" else status.st_mtime_ns
        found[str(path.relative_to(root))] = (status.st_mode, changed, content)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with clips of text, weights of a tiny text model, and every cache in it."""
    for name in ("home", "cache", "hub", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(registry.find("encoders", "text_bert").tiny().config.weights.source, tmp_path / "local")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    label = [list(CLASSES)[i % 2] for i in range(8)]
    rows = {"clip_id": [f"c{i}" for i in range(8)], "text": [CLASSES[name] for name in label], "label": label}
    pd.DataFrame(rows).to_csv("clips.csv", index=False)
    return tmp_path


@pytest.fixture
def dry(place, monkeypatch, capsys):
    """Runs a job dry: what it prints; nothing else may come of it."""

    def start(**options):
        raise AssertionError("Ray was started")

    def run(job, settings):
        if job not in {"why", "predict"}:
            settings = {"faces": {"enabled": False}, **settings}
        checked = JOBS[job].model_validate(settings)
        before = tree(place)
        SOCKETS.clear()
        assert import_module(f"mer_ray.pipelines.{job}").run(checked, dry_run=True) == 0
        assert SOCKETS == []
        assert tree(place) == before
        return capsys.readouterr().out

    monkeypatch.setattr(ray, "init", start)
    return run


def row(printed, step):
    """The cells of a step's row: rows to make, disk, time."""
    (line,) = [line for line in printed.splitlines() if line.startswith("│") and line.split()[1] == step]
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


@pytest.mark.parametrize("job", ["mine", "extract", "tune"])
def test_the_demos_clips_are_not_made_and_its_steps_are_timed_all_the_same(job, dry):
    told = dry(job, {"data": DEMO, "encoders": {"words": WORDS, "sound": {"plugin": "logmel"}}})
    for step in ("audio", "transcript", "words", "sound"):
        rows, disk, time = row(told, step)
        assert rows == "40"
        assert disk != "0 B"
        assert time != "?"


def test_the_demos_clips_that_are_there_are_known_again(place, monkeypatch):
    data = {"layout": "demo", "demo": {"num_clips": 40, "labelled": 0.4, "dir": "demo"}}
    settings = config.MineConfig.model_validate({"data": data, "encoders": {"words": WORDS}})
    monkeypatch.setattr("mer_ray.demo.files._write_all", lambda jobs, _: (path.write_bytes(b"x") for _, path in jobs))
    run_dir, tables = source.stores(settings)
    real = source.load(settings, run_dir, mine.Console(), dry_run=False)
    planned = source.load(settings, run_dir, mine.Console(), dry_run=True)
    assert planned.clips == real.clips
    with only_here():
        steps, unknown = planning.plan_here(settings, planned.clips, tables)
    assert (steps[0].keys, unknown) == (planning.plan(settings, real.clips, tables)[0].keys, {})


def test_what_others_would_have_to_be_asked_for_is_not_timed(dry):
    encoders = {"words": WORDS, "here": HINTED | {"hint": None}, "hinted": HINTED, "hub": HUB, "s3": S3}
    told = dry("mine", {"data": CLIPS, "encoders": encoders, "hint": HINT})
    assert row(told, "words")[2] != "?"
    assert row(told, "here")[2] != "?"
    assert [row(told, step)[0] for step in ("hint", "hinted", "hub", "s3")] == ["8"] * 4
    assert [row(told, step)[2] for step in ("hint", "hinted", "hub", "s3")] == ["?"] * 4
    assert row(told, "hub")[1] == "?"
    for line in (
        "hint could not be timed here: a server is asked for its rows.",
        "hinted could not be timed here: it reads hint.",
        "hub could not be timed here: its weights are not on this machine yet.",
        "s3 could not be timed here: its weights are not on this machine yet.",
    ):
        assert line in told


def test_weights_of_which_only_the_large_files_are_missing_are_not_timed(place, dry):
    folder = place / "hub" / "models--nobody--nothing" / "snapshots" / ("0" * 40)
    shutil.copytree(place / "local", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    told = dry("extract", {"data": CLIPS, "encoders": {"hub": HUB}})
    assert row(told, "hub")[2] == "?"


def test_a_damaged_part_stays_where_it_is_and_its_rows_are_missing(place, dry):
    settings = {"data": CLIPS, "encoders": {"words": WORDS}, "tables": {"dir": "tables"}}
    checked = config.ExtractConfig.model_validate(settings)
    clips = source.clips(checked, Store("run"), mine.Console(), require_labels=False).clips
    transcript = planning.plan(checked, clips, Store("tables"))[0]
    for ids in (["c0", "c1", "c2"], ["c3", "c4"]):
        rows = [{"clip_id": name, "present": True, "text": "a word", "source": "manifest"} for name in ids]
        keys = [transcript.keys[name] for name in ids]
        transcript.table.commit(pa.Table.from_pylist(rows, schema=transcript.stage.schema), keys, {})
    damaged = next(part for part in (place / "tables").rglob("[!_]*.parquet") if pq.read_metadata(part).num_rows == 2)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert row(dry("extract", settings), "transcript")[0] == "5"


@pytest.mark.parametrize("encoder", [HUB, HINTED | {"hint": None}], ids=["hub", "local"])
def test_a_probe_reads_nothing_but_what_is_here(encoder, dry):
    told = dry("probe", {"data": CLIPS, "encoders": {"words": encoder}})
    assert (row(told, "words")[2] == "?") == (encoder is HUB)


@pytest.mark.parametrize(
    "task",
    [
        {"name": "text_finetune", "options": {"encoder": {"plugin": "text_bert", "options": HUB["options"]}}},
        {"name": "text_finetune", "options": {"encoder": {"plugin": "text_bert", "options": S3["options"]}}},
        {"name": "text_finetune", "options": {"encoder": {"plugin": "text_bert", "options": HINTED["options"]}}},
    ],
    ids=["hub", "s3", "local"],
)
def test_a_training_only_says_what_it_would_extract(task, dry):
    told = dry("train_encoder", {"data": CLIPS, "task": task})
    assert row(told, "transcript")[0] == "8"


def test_the_tiny_models_of_a_training_are_not_left(dry):
    prompts = {"tiny": True, "tuning": {"how": "prompts", "layers": [1, 2]}}
    settings = {"data": DEMO, "task": {"name": "emovclip", "options": prompts}, "faces": {"enabled": True}}
    assert row(dry("train_encoder", settings), "faces")[0] == "40"


def test_a_finished_run_is_only_read(place, dry):
    experiment, _ = made.make(num_labelled=30, num_pool=6, num_test=6)
    run_dir = Store("model")
    run = made_finished.finish(experiment, run_dir)
    results.final_of(run).write(run_dir / "rounds")
    Journal(run_dir).open(run.settings)
    told = {"clip_id": "c0", "split": "test", "label": "joy", "confidence": 0.5, "prob_joy": 0.5, "vote_all": "joy"}
    run_dir.write("quarantine.parquet", as_bytes(features.quarantine_table(())))
    run_dir.write("predictions.parquet", as_bytes(pa.Table.from_pylist([told])))
    assert "joy" in dry("why", {"run": {"dir": "model"}, "clip": "c0", "html": "why.html"})
    (place / "features").mkdir()
    for name in made.VIEWS:
        np.savez(f"features/{name}.npz", clip_id=np.array([f"c{i}" for i in range(8)]), vector=np.zeros((8, 8), "f4"))
    pd.DataFrame({"clip_id": [f"c{i}" for i in range(8)]}).to_csv("new.csv", index=False)
    given = {
        "data": {"layout": "manifest", "manifest": "new.csv", "features": "features"},
        "model": "model",
        "run": {"dir": "new"},
    }
    assert "rows to make" in dry("predict", given)


def as_bytes(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()
