"""The extraction job, run as a user runs it."""

import json
from pathlib import Path

import datasets
import made_job
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from mer_ray.config import ExtractConfig
from mer_ray.data import ready
from mer_ray.pipelines import command
from mer_ray.pipelines import extract as job

ENCODERS = "encoders={words: {plugin: ngrams, options: {width: 64}, sequences: float32, batch_size: 8}}"


def extract(*arguments: str, cwd: Path):
    return made_job.here("extract", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    """20 clips, none labelled: one without text, one whose sound is missing. Extracted and exported."""
    root = tmp_path_factory.mktemp("extract")
    text = [f"word {i % 5} said" for i in range(20)]
    text[3] = ""
    audio = ["gone.wav" if i == 5 else "" for i in range(20)]
    (root / "other.wav").write_bytes(b"")
    audio[6] = "other.wav"
    pd.DataFrame({"clip_id": [f"c{i:02d}" for i in range(20)], "text": text, "audio": audio}).to_csv(
        root / "clips.csv", index=False
    )
    arguments = ["data.manifest=clips.csv", "run.dir=run", ENCODERS, "export.mertools=set", "export.huggingface=hf"]
    return root, made_job.here("extract", *arguments, cwd=root, on_ray=True), arguments


def test_clips_without_a_label_are_extracted(finished):
    root, done, _ = finished
    assert done.returncode == 0, done.stderr
    assert "20 clips = 19 with features + 1 quarantined" in done.stdout
    table = pq.read_table(list(root.glob("run/tables/words/*/[!_]*.parquet")))
    assert sorted(table["clip_id"].to_pylist()) == [f"c{i:02d}" for i in range(20)]
    assert sum(table["present"].to_pylist()) == 19
    assert str(root / "run/tables") in done.stdout
    quarantine = pq.read_table(root / "run/quarantine.parquet").to_pylist()
    assert [(row["clip_id"], row["step"], row["error"]) for row in quarantine] == [("c03", "manifest", "no_modality")]


def test_what_it_exports_is_read_back(finished):
    root = finished[0]
    (found,) = ready.discover(str(root / "set/features"), {"words-UTT": "text"})
    loaded = ready.load(found, [f"c{i:02d}" for i in range(20)])
    assert np.flatnonzero(~loaded.feature.present).tolist() == [3]
    made = datasets.load_from_disk(str(root / "hf"))
    assert {split: len(rows) for split, rows in made.items()} == {"unlabeled": 20}
    rows = {row["clip_id"]: row["words"] for row in made["unlabeled"]}
    assert rows["c03"] is None
    np.testing.assert_allclose(rows["c04"], loaded.feature.values[4], rtol=1e-6)
    assert np.load(root / "set/features/words-FRA/c04.npy").shape == (1, 64)


def test_the_same_command_again_makes_nothing_and_new_clips_alone_are_made(finished):
    root, _, arguments = finished
    parts = {path: path.stat().st_mtime_ns for path in root.glob("run/tables/*/*/[!_]*.parquet")}
    with (root / "clips.csv").open("a") as file:
        file.write("c20,a new one,\n")
    done = extract(*arguments, cwd=root)
    assert done.returncode == 0, done.stderr
    now = {path: path.stat().st_mtime_ns for path in root.glob("run/tables/*/*/[!_]*.parquet")}
    assert {path: now[path] for path in parts} == parts
    events = [json.loads(line) for line in (root / "run/events.jsonl").read_text().splitlines()]
    made = [event["clips"] for event in events if event["event"] == "step_done" and event["step"] == "words"]
    assert made == [20, 1]
    assert len(datasets.load_from_disk(str(root / "hf"))["unlabeled"]) == 21


def test_too_many_clips_without_features_end_with_3(tmp_path):
    rows = {"clip_id": ["a", "b", "c"], "text": ["x", "", ""], "label": ["", "joy", "joy"]}
    pd.DataFrame(rows).to_csv(tmp_path / "clips.csv", index=False)
    done = extract("data.manifest=clips.csv", "run.dir=run", ENCODERS, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "no_modality" in done.stdout


def test_a_dry_run_makes_nothing(finished, tmp_path):
    manifest = f"data.manifest={finished[0] / 'clips.csv'}"
    done = extract("--dry-run", manifest, "run.dir=run", ENCODERS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows to make" in done.stdout
    assert "words" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to time it on")
def test_a_dry_run_goes_without_the_gpu_that_an_encoder_wants(finished, tmp_path):
    voice = "encoders={voice: {plugin: hubert, gpus: 1, options: {weights: {source: 'random:hubert-base'}}}}"
    done = extract("--dry-run", f"data.manifest={finished[0] / 'clips.csv'}", "run.dir=run", voice, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "could not be timed here" in done.stdout


STEPS = ("audio", "faces", "transcript")
HUBERT = "plugin: hubert, options: {weights: {source: ./models/none}}"
MISSING = f"encoders={{voice: {{{HUBERT}}}, sum: {{{HUBERT}, pooling: mean_std}}, words: {{plugin: ngrams}}}}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["encoders={}"], "nothing to extract"),
        (["encoders={a: {plugin: ngrms}}"], "did you mean 'ngrams'"),
        (["data.features=vectors"], "nothing to extract"),
        (["data.manifest=none.csv"], "none.csv"),
        (["export.huggingface=full"], "holds something that is no dataset"),
        (["mining.rounds=3"], "unknown key mining"),
        (["data.layout=demo"], "data.manifest is set, but data.layout=demo makes its own clips; set data.layout=man"),
        (["data={layout: demo, root: set}"], "data.root is set, but data.layout=demo"),
        *(([f"encoders={{{name}: {{plugin: ngrams}}}}"], "is what encoders read") for name in STEPS),
        *(
            ([f"encoders={{{name}: {{plugin: ngrams}}}}"], "rename it")
            for name in ("..", "a/b", "'a b'", "''", "a" * 101)
        ),
        (["encoders={text: {plugin: ngrams}}", "export.huggingface=new"], "encoders.text and the clip itself"),
        ([MISSING], "encoders voice, sum: weights ./models/none: there is no such folder"),
    ],
)
def test_bad_input_is_one_clear_message_before_anything_starts(tmp_path, monkeypatch, capsys, arguments, told):
    (tmp_path / "clips.csv").write_text("clip_id,text\na,x\nb,y\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "session", lambda runtime: pytest.fail("Ray was started"))
    code = command.main(
        job="extract",
        about="",
        model=ExtractConfig,
        file="extract.yaml",
        arguments=["data.manifest=clips.csv", "run.dir=run", *arguments],
    )
    assert code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
