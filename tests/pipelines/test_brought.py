"""The whole job on what users bring, as it lies."""

import json

import made_job
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

NAMES = ("neutral", "angry", "happy", "sad", "worried", "surprise")


@pytest.fixture
def mertools(tmp_path):
    """A processed MERTools folder: 30 labelled clips, 30 whose labels are the toolbox's fake ones; three features."""
    rng = np.random.default_rng(0)
    root = tmp_path / "mertools"
    emotion = np.arange(60) % 6
    for feature, dim in {"hubert-large-UTT": 8, "clip-vit-large-FRA": 6, "macbert-large-UTT": 5}.items():
        folder = root / "features" / feature
        folder.mkdir(parents=True)
        centres = rng.normal(size=(6, dim)) * 2
        for clip, c in enumerate(emotion):
            vector = (centres[c] + rng.normal(size=dim)).astype(np.float32)
            np.save(folder / f"clip_{clip:02d}.npy", np.stack([vector, vector]) if "FRA" in feature else vector)
    corpora = {
        "train_corpus": {f"clip_{i:02d}": {"emo": NAMES[emotion[i]], "val": 0.5} for i in range(30)},
        "test1_corpus": {f"clip_{i:02d}": {"emo": "neutral", "val": 0.0} for i in range(30, 60)},
    }
    np.savez(root / "label-6way.npz", **{name: np.array(corpus, dtype=object) for name, corpus in corpora.items()})
    return root


def test_a_mertools_folder_runs_as_it_lies(mertools, tmp_path):
    done = made_job.mine_here("data.layout=mertools", f"data.root={mertools}", "run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "run/predictions.parquet").to_pandas()
    assert len(table) == 60
    assert {name for name in table.columns if name.startswith("weight_")} == {
        "weight_audio",
        "weight_video",
        "weight_text",
    }
    assert table["split"].value_counts().to_dict() == {"train": 30, "unlabeled": 30}
    submission = pd.read_csv(tmp_path / "run/submission.csv")
    assert submission["name"].tolist() == [f"clip_{i:02d}" for i in range(30, 60)]
    right = submission["discrete"] == [NAMES[i % 6] for i in range(30, 60)]
    assert right.mean() > 0.6, "the toolbox's fake neutral was learnt, or rows were joined by position"
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test"] == dict.fromkeys(["waf", "macro_f1", "accuracy", "ece", "ece_raw"])
    assert metrics["control"]["test_waf"] is None


@pytest.fixture
def vectors(tmp_path):
    """``write(rows)`` writes a manifest of 60 clips, and vectors of the given ones alone."""
    rng = np.random.default_rng(0)
    emotion = np.arange(60) % 3
    vector = np.eye(3)[emotion] * 3 + rng.normal(size=(60, 3))
    split = np.array(["train"] * 24 + ["unlabeled"] * 20 + ["test"] * 16)

    def write(rows):
        ids = np.array([f"c{i:02d}" for i in range(60)])
        label = [("anger", "joy", "worry")[c] if s == "train" else "" for c, s in zip(emotion, split, strict=True)]
        pd.DataFrame({"clip_id": ids, "label": label, "split": split}).to_csv(tmp_path / "clips.csv", index=False)
        (tmp_path / "features").mkdir()
        np.savez(tmp_path / "features/audio.npz", clip_id=ids[rows], vector=vector[rows])
        return ["data.manifest=clips.csv", "data.features=features", "run.dir=run"]

    return write


def test_test_clips_are_adopted_when_asked_for(vectors, tmp_path):
    arguments = [*vectors(np.arange(60)), "mining.include_test=true"]
    done = made_job.mine_here(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    adopted = set(pq.read_table(tmp_path / "run/rounds/00/selected.parquet")["clip_id"].to_pylist())
    assert adopted & {f"c{i}" for i in range(44, 60)}
    assert not adopted & {f"c{i:02d}" for i in range(24)}


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ([], "0 labelled clips have a modality left, of fewer than two classes"),
        ([0, 3, 6, 9], "4 labelled clips have a modality left, of fewer than two classes"),
    ],
    ids=["no labelled clip", "one class"],
)
def test_too_few_labelled_clips_left_to_learn_from_fail_the_job(vectors, tmp_path, left, told):
    kept = [*left, *range(24, 60)]
    done = made_job.mine_here(*vectors(np.array(kept)), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"failed: {told}")
    assert "Traceback" not in done.stderr
    quarantine = pq.read_table(tmp_path / "run/quarantine.parquet")
    assert quarantine["clip_id"].to_pylist() == [f"c{i:02d}" for i in range(60) if i not in kept]


@pytest.mark.parametrize(
    "fault",
    ["strangers", "ragged", "truncated"],
)
def test_features_that_cannot_be_used_are_refused_before_anything_starts(vectors, tmp_path, fault):
    arguments = vectors(np.arange(60))
    told = {
        "strangers": "has no vector for any clip of the manifest, and 3 for others, for instance 'x0'",
        "ragged": "is ragged: the vector of 'c00' is 2 wide",
        "truncated": "is truncated or is not of its form",
    }[fault]
    clips, width = (["c01", "c00", "c02"], [3, 2, 3]) if fault == "ragged" else (["x0", "x1", "x2"], [3, 3, 3])
    path = tmp_path / "features" / "face_net.parquet"
    pd.DataFrame({"clip_id": clips, "vector": [np.ones(w) for w in width]}).to_parquet(path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    done = made_job.mine_here(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: ready feature {path} "), done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists(), "something was started"
