"""The whole job, run as a user runs it, on features and text that take seconds."""

import json
import re
import subprocess
from pathlib import Path

import made_job
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mer_ray import config
from mer_ray.pipelines import defaults

CLASSES = ("anger", "happiness", "neutral")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A manifest of 90 clips with text, a Parquet and an npz of vectors; one clip has nothing, one a NaN vector."""
    root = tmp_path_factory.mktemp("bundle")
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=90)
    ids = [f"c{i:02d}" for i in range(90)]
    split = ["train"] * 30 + ["unlabeled"] * 40 + ["test"] * 20
    words = ("cross", "glad", "plain")
    text = [f"a {words[c]} word {i}" for i, c in enumerate(label)]
    text[40] = ""
    rows = {"clip_id": ids, "text": text, "split": split, "speaker": [f"s{i % 7}" for i in range(90)]}
    named = [CLASSES[c] if s != "unlabeled" else "" for c, s in zip(label, split, strict=True)]
    pd.DataFrame({**rows, "label": named}).to_csv(root / "clips.csv", index=False)
    features = root / "features"
    features.mkdir()
    voice = np.eye(3)[label] * 2 + rng.normal(size=(90, 3))
    voice[50] = np.nan
    kept = [i for i in range(90) if i != 40]
    pd.DataFrame({"clip_id": [ids[i] for i in kept], "vector": list(voice[kept])}).to_parquet(
        features / "audio.parquet"
    )
    face = (np.eye(3)[label] + rng.normal(size=(90, 3))).astype(np.float16)
    np.savez(features / "face_net.npz", clip_id=np.array([ids[i] for i in kept]), vector=face[kept])
    return root


@pytest.fixture(scope="module")
def finished(bundle) -> tuple[Path, subprocess.CompletedProcess[str], list[str]]:
    """A finished run: its directory, what it printed, and its command."""
    run_dir = bundle / "run"
    arguments = [
        "--config",
        "jobs/configs/features.yaml",
        f"data.manifest={bundle / 'clips.csv'}",
        f"data.features={bundle / 'features'}",
        "data.modalities.face_net=video",
        "encoders.ngrams={plugin: ngrams, batch_size: 32}",
        "evaluation.ablations=true",
        f"run.dir={run_dir}",
    ]
    return run_dir, made_job.mine(*arguments, cwd=bundle), arguments


def test_a_job_ends_well_and_says_so(finished):
    run_dir, done, _ = finished
    assert done.returncode == 0, done.stderr
    assert str(run_dir / "report.html") in done.stdout
    assert "90 clips = 89 predicted + 1 quarantined" in done.stdout
    assert "ensemble" in done.stdout


def test_the_run_directory_holds_what_was_promised(finished):
    run_dir = finished[0]
    files = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    promised = {
        "config.yaml",
        "environment.json",
        "events.jsonl",
        "quarantine.parquet",
        "predictions.parquet",
        "submission.csv",
        "submission_fallback.csv",
        "metrics.json",
        "report.html",
        "rounds/00/votes.parquet",
        "rounds/00/selected.parquet",
        "rounds/00/metrics.json",
        "rounds/01/votes.parquet",
    }
    assert promised <= files
    learners = [path.parent for path in run_dir.glob("rounds/0[01]/*/metrics.json")]
    alone, taught = (sorted(path.name for path in learners if path.parent.name == number) for number in ("00", "01"))
    assert len(alone) == 4 + 2
    assert {"linear", "lda"} < set(alone)
    assert taught == ["lda_em", "student"]
    assert all((folder / name).exists() for folder in learners for name in ("model.safetensors", "config.json"))


def test_every_clip_is_predicted_once_or_quarantined(finished):
    run_dir = finished[0]
    table = pq.read_table(run_dir / "predictions.parquet").to_pandas()
    votes = [name for name in table.columns if name.startswith("vote_")]
    weights = ["weight_audio", "weight_video", "weight_text"]
    expected = [
        "clip_id",
        "split",
        "label",
        "confidence",
        *(f"prob_{name}" for name in ("neutral", "anger", "happiness")),
    ]
    without = [name.replace("weight", "without") for name in weights]
    told = [*votes, *weights, *without, "round", "given", "nearest", "nearest_given", "speaker_clips"]
    assert sorted(table.columns) == sorted([*expected, *told])
    voters = json.loads((run_dir / "rounds/final.json").read_text())["voters"]
    assert votes == [f"vote_{voter['name']}" for voter in voters]
    assert table["clip_id"].is_unique
    assert len(table) == 89
    assert np.allclose(table[[f"prob_{name}" for name in CLASSES]].sum(axis=1), 1)
    assert np.allclose(table[weights].sum(axis=1), 1, atol=1e-5)
    assert set(table["label"]) <= set(CLASSES)
    nan_clip = table.set_index("clip_id").loc["c50"]
    assert nan_clip["weight_audio"] == 0, "a NaN vector was read"
    quarantine = pq.read_table(run_dir / "quarantine.parquet").to_pylist()
    assert {(row["clip_id"], row["step"], row["error"]) for row in quarantine} == {
        ("c50", "audio", "not_finite"),
        ("c40", "manifest", "no_modality"),
    }
    assert all(row["detail"] for row in quarantine)


def test_metrics_hold_the_promised_keys(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert set(metrics["test"]) == {"waf", "macro_f1", "accuracy", "ece", "ece_raw"}
    assert set(metrics["candidates"]) == {"round_0", "linear", "lda", "lda_em", "student", "mean"}
    assert sum(one["chosen"] for one in metrics["candidates"].values()) == 1
    assert 0 <= metrics["oof"]["waf"] <= 1
    assert metrics["test"]["waf"] > 0.6
    for number, line in enumerate(metrics["rounds"]):
        assert line["round"] == number
        assert {"oof_waf", "test_waf", "selected", "kept"} <= set(line)
    assert set(metrics["modalities"]) == {"audio", "video", "text"}
    assert all(0 <= one["test_waf"] <= 1 for one in metrics["modalities"].values())
    assert 0 <= metrics["control"]["test_waf"] <= 1
    assert metrics["counts"] == {"manifest": 90, "predicted": 89, "quarantined": 1}
    assert {"transcript", "ngrams", "mining"} <= set(metrics["seconds"])


def test_the_submission_has_every_candidate_once(finished):
    run_dir = finished[0]
    submission = pd.read_csv(run_dir / "submission.csv")
    assert list(submission.columns) == ["name", "discrete"]
    assert submission["name"].tolist() == [f"c{i:02d}" for i in range(30, 90)]
    fallback = pd.read_csv(run_dir / "submission_fallback.csv")
    assert fallback["name"].tolist() == ["c40"]


def test_the_report_is_one_file_that_needs_no_network(finished):
    page = (finished[0] / "report.html").read_text()
    assert "no modality" in page
    assert "c40" in page
    for outside in ('src="http', 'href="http', "@import", "url(http"):
        assert outside not in page


def test_the_report_says_what_hiding_each_modality_does(finished):
    page = (finished[0] / "report.html").read_text()
    cards = re.findall(r'<article class="card clip".*?</article>', page, re.DOTALL)
    assert cards
    for card in cards:
        weights = dict(re.findall(r'<li class="m\d">(\w+) (\d+) %', card))
        told = re.findall(r"without (\w+), in points", card)
        assert {name for name, weight in weights.items() if weight != "0"} <= set(told) <= set(weights)
    assert re.search(r"in points\">\(\N{MINUS SIGN}[1-9]", page), "hiding costs no clip's label anything"


def test_pseudo_labels_can_be_traced(finished):
    run_dir = finished[0]
    selected = pq.read_table(run_dir / "rounds/00/selected.parquet").to_pandas()
    told = ["clip_id", "fold", "label", "agreement", "confidence", "learner", "weight"]
    assert list(selected.columns) == [*told, "prob_neutral", "prob_anger", "prob_happiness"]
    assert len(selected)
    assert not selected.duplicated(["clip_id", "fold", "learner"]).any()
    assert set(selected["clip_id"]) <= {f"c{i:02d}" for i in range(30, 70)}, "a clip that is no pool clip was adopted"
    votes = pq.read_table(run_dir / "rounds/00/votes.parquet")
    assert votes.column_names[:2] == ["clip_id", "learner"]
    assert not set(votes["clip_id"].to_pylist()) & {f"c{i:02d}" for i in range(30)}


def test_the_same_command_again_computes_nothing(finished):
    run_dir, _, arguments = finished
    names = ("predictions.parquet", "submission.csv")
    before = {name: (run_dir / name).read_bytes() for name in names}
    models = {path: path.stat().st_mtime_ns for path in run_dir.glob("rounds/*/*/model.safetensors")}
    parts = {path: path.stat().st_mtime_ns for path in run_dir.glob("tables/*/*/[!_]*.parquet")}
    assert made_job.mine_here(*arguments, cwd=run_dir.parent).returncode == 0
    assert {name: (run_dir / name).read_bytes() for name in names} == before
    assert {path: path.stat().st_mtime_ns for path in run_dir.glob("rounds/*/*/model.safetensors")} == models
    assert {path: path.stat().st_mtime_ns for path in run_dir.glob("tables/*/*/[!_]*.parquet")} == parts
    made = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    starts = [number for number, event in enumerate(made) if event["event"] == "run_started"]
    assert sum(event["clips"] for event in made[starts[-1] :] if event["event"] == "step_done") == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["minig.rounds=3"], "unknown key minig; did you mean 'mining'"),
        (["--config", "none.yaml"], "none.yaml does not exist"),
        (["data.manifest=none.csv"], "none.csv"),
        (["data.manifest=bad.csv"], "row"),
        (["data.manifest=bad.csv", "mining.strategy=voet"], "did you mean 'vote'"),
        (["mining.strategy=vote", "mining.options={min_agre: 2}"], "did you mean 'min_agree'"),
        (["encoders={}"], "nothing to learn from"),
        (
            [
                "data.manifest=good.csv",
                "encoders={voice: {plugin: hubert, options: {weights: {source: ./models/none}}}}",
            ],
            "weights ./models/none: there is no such folder",
        ),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_2(tmp_path, arguments, told):
    (tmp_path / "bad.csv").write_text("clip_id,text,label\n../a,x,anger\nb,y,anger\nb,z,happiness\n")
    (tmp_path / "good.csv").write_text("clip_id,text,label\na,x,anger\nb,z,happiness\n")
    done = made_job.here("mine", *arguments, "run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_help_lists_every_key(tmp_path):
    done = made_job.here("mine", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(key.split(".")[-1] in done.stdout for key, _, _ in config.describe(config.MineConfig))


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(bundle, tmp_path):
    done = made_job.here("mine", "--dry-run", f"data.manifest={bundle / 'clips.csv'}", "run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows to make" in done.stdout
    assert "ngrams" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "file"),
    [
        ([], "demo.yaml"),
        (["data.manifest=x.csv"], "folder.yaml"),
        (["data.features=d", "data.manifest=x"], "features.yaml"),
    ],
)
def test_what_is_given_picks_the_config(overrides, file):
    assert defaults.mine(overrides) == file
