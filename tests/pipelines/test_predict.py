"""New clips labelled by a finished run, and why: the jobs as a user runs them."""

import json

import made_job
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mer_ray import config
from mer_ray.config import PredictConfig
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, FeatureFileError, InputError, ManifestError
from mer_ray.pipelines import predict, why

CLASSES = ("anger", "happiness", "worry")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run on 60 clips, some without a vector of one kind, one of them with none at all."""
    root = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    emotion = np.arange(60) % 3
    ids = np.array([f"c{i:02d}" for i in range(60)])
    split = np.array(["train"] * 24 + ["unlabeled"] * 20 + ["test"] * 16)
    label = ["" if s == "unlabeled" else CLASSES[c] for c, s in zip(emotion, split, strict=True)]
    table = pd.DataFrame({"clip_id": ids, "label": label, "split": split})
    table.to_csv(root / "clips.csv", index=False)
    table[table["split"] != "train"].drop(columns="split").to_csv(root / "new.csv", index=False)
    table[table["clip_id"] == "c59"].drop(columns=["split", "label"]).to_csv(root / "one.csv", index=False)
    table.assign(label="bored").to_csv(root / "bored.csv", index=False)
    (root / "features").mkdir()
    (root / "narrow").mkdir()
    for name, kept in {"audio": ids != "c50", "face_net": ~np.isin(ids, ["c45", "c50"])}.items():
        vector = (np.eye(3)[emotion] * 3 + rng.normal(size=(60, 3))).astype(np.float32)
        np.savez(root / f"features/{name}.npz", clip_id=ids[kept], vector=vector[kept])
        np.savez(root / f"narrow/{name}.npz", clip_id=ids[kept], vector=vector[kept, :2])
    given = ["data.manifest=clips.csv", "data.features=features", "data.modalities.face_net=video", "run.dir=run"]
    done = made_job.mine(*given, "mining.rounds_kept=all", cwd=root)
    assert done.returncode == 0, done.stderr
    return root


def ask(finished, *arguments):
    return made_job.run("predict", "model=run", "data.features=features", *arguments, cwd=finished)


@pytest.mark.slow
def test_the_runs_own_clips_get_the_same_answers_and_scores(finished):
    done = ask(finished, "data.manifest=new.csv", "run.dir=again")
    assert done.returncode == 0, done.stderr
    assert "36 clips = 35 predicted + 1 quarantined" in done.stdout
    table = pq.read_table(finished / "again/predictions.parquet").to_pandas().set_index("clip_id")
    own = pq.read_table(finished / "run/predictions.parquet").to_pandas().set_index("clip_id").loc[table.index]
    columns = [name for name in table.columns if name != "split"]
    assert {"label", "prob_worry", "vote_all", "weight_video", "without_audio"} <= set(columns)
    pd.testing.assert_frame_equal(table[columns], own[columns], rtol=0, atol=1e-6)
    figures = json.loads((finished / "again/metrics.json").read_text())
    assert figures["test"] == pytest.approx(json.loads((finished / "run/metrics.json").read_text())["test"])
    assert figures["counts"] == {"manifest": 36, "predicted": 35, "quarantined": 1}
    submission = pd.read_csv(finished / "again/submission.csv")
    assert submission["name"].tolist() == [f"c{i}" for i in range(24, 60)], "labelled clips are submitted too"
    assert pq.read_table(finished / "again/quarantine.parquet")["clip_id"].to_pylist() == ["c50"]
    assert not (finished / "again/rounds").exists(), "something was fitted"


@pytest.mark.slow
def test_clips_that_were_trained_on_are_not_scored(finished):
    done = ask(finished, "data.manifest=clips.csv", "run.dir=all", "max_error_fraction=0.001")
    assert done.returncode == 3, done.stderr
    figures = json.loads((finished / "all/metrics.json").read_text())
    assert (figures["trained_on"], figures["scored"], figures["counts"]["predicted"]) == (24, 15, 59)


@pytest.mark.slow
def test_one_clip_can_be_asked_about_and_told_of(finished):
    done = ask(finished, "data.manifest=one.csv", "run.dir=one")
    assert done.returncode == 0, done.stderr
    story = why.gather(Store(str(finished / "one")), "c59", with_faces=True)
    assert story.rounds == ()
    assert story.clip.label == why.gather(Store(str(finished / "run")), "c59", with_faces=True).clip.label


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["data.manifest=new.csv"], FeatureFileError, r"not given for these clips: audio, face_net"),
        (["data.manifest=new.csv", "data.features=narrow"], FeatureFileError, "audio is 2 wide and was 3 in the run"),
        (["data.manifest=bored.csv", "data.features=features"], ManifestError, r"run's classes: anger, happiness"),
        (["data.manifest=new.csv", "run.dir=run"], ConfigError, "its predictions would be lost"),
        (["data.manifest=new.csv", "model=none"], ConfigError, "is no run; give the"),
    ],
)
def test_what_the_run_cannot_use_is_refused_before_anything_starts(finished, monkeypatch, arguments, error, told):
    monkeypatch.chdir(finished)
    pd.read_csv("new.csv").assign(text="words").to_csv("new.csv", index=False)
    settings = config.load(PredictConfig, "predict.yaml", ["model=run", "run.dir=refused", *arguments])
    with pytest.raises(error, match=told):
        predict.run(settings)
    assert not (finished / "refused").exists()


@pytest.mark.slow
def test_why_tells_rounds_votes_modalities_and_neighbours_of_a_clip(finished):
    own = pq.read_table(finished / "run/predictions.parquet").to_pandas().set_index("clip_id")
    adopted = own.index[own["round"] > 0][0]
    done = made_job.run("why", "run.dir=run", f"clip={adopted}", "html=out/why.html", cwd=finished)
    assert done.returncode == 0, done.stderr
    selected = pq.read_table(finished / "run/rounds/00/selected.parquet").to_pandas()
    mine = selected[selected["clip_id"] == adopted]
    for told in (own.loc[adopted, "label"], "audio", "video", own.loc[adopted, "nearest"][0], "Round by round"):
        assert told in done.stdout, told
    assert f"{mine['label'].iloc[0]} in {mine['fold'].nunique()}" in done.stdout
    page = (finished / "out/why.html").read_text()
    assert adopted in page
    assert "Round by round" in page
    votes = pq.read_table(finished / "run/rounds/01/votes.parquet").to_pandas()
    said = votes[(votes["clip_id"] == adopted) & (votes["learner"] == "all")].iloc[0]
    story = why.gather(Store(str(finished / "run")), adopted, with_faces=False)
    assert story.rounds[1].said["all"]["worry"] == pytest.approx(said["prob_worry"])
    assert story.clip.without["audio"] == pytest.approx(-own.loc[adopted, "without_audio"])


@pytest.mark.slow
def test_why_names_the_nearest_clip_and_the_reason_of_a_lost_one(finished):
    store = Store(str(finished / "run"))
    with pytest.raises(InputError, match=r"'c5' is not in the run .*; did you mean 'c5\d'"):
        why.gather(store, "c5", with_faces=False)
    with pytest.raises(InputError, match="c50 has no label, nothing of it could be used: manifest: no_modality"):
        why.gather(store, "c50", with_faces=False)
    with pytest.raises(InputError, match="to a finished run"):
        why.gather(store / "nothing", "c51", with_faces=False)
    trained = why.gather(store, "c03", with_faces=False)
    assert trained.clip.given_label == "anger"
    assert all(not one.said for one in trained.rounds)
