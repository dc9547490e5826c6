"""New clips labelled by a finished run, and why: the jobs as a user runs them."""

import json
from dataclasses import replace

import in_process
import made_experiment as made
import made_finished
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mer_ray import config
from mer_ray.config import PredictConfig
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, FeatureFileError, ManifestError
from mer_ray.pipelines import predict, why


@pytest.fixture(scope="module")
def brought(mined_vectors, tmp_path_factory):
    """New clips of several kinds, and the features that the run of ``mined_vectors`` read."""
    root = tmp_path_factory.mktemp("brought")
    table = pd.read_csv(mined_vectors / "clips.csv", keep_default_na=False)
    table.to_csv(root / "clips.csv", index=False)
    new = table[table["split"] != "train"].drop(columns="split")
    new.assign(text="words").to_csv(root / "new.csv", index=False)
    table[table["clip_id"] == "c59"].drop(columns=["split", "label"]).to_csv(root / "one.csv", index=False)
    table.assign(label="bored").to_csv(root / "bored.csv", index=False)
    (root / "narrow").mkdir()
    for file in (mined_vectors / "features").iterdir():
        whole = np.load(file)
        np.savez(root / "narrow" / file.name, clip_id=whole["clip_id"], vector=whole["vector"][:, :2])
    (root / "features").symlink_to(mined_vectors / "features")
    (root / "run").symlink_to(mined_vectors / "run")
    return root


@pytest.fixture(autouse=True)
def there(brought, monkeypatch):
    monkeypatch.chdir(brought)


def ask(capsys, *arguments):
    """The exit code of ``jobs/predict.py`` and what it printed."""
    code = in_process.run("predict", "model=run", "data.features=features", *arguments)
    told = capsys.readouterr()
    return code, told.out + told.err


def test_the_runs_own_clips_get_the_same_answers_and_scores(brought, capsys):
    code, told = ask(capsys, "data.manifest=new.csv", "run.dir=again")
    assert code == 0, told
    assert "36 clips = 35 predicted + 1 quarantined" in told
    table = pq.read_table(brought / "again/predictions.parquet").to_pandas().set_index("clip_id")
    own = pq.read_table(brought / "run/predictions.parquet").to_pandas().set_index("clip_id").loc[table.index]
    assert table.columns.tolist() == own.columns.tolist()
    columns = [name for name in table.columns if name not in {"split", "round", "given", "nearest", "nearest_given"}]
    assert {"label", "prob_worry", "vote_all", "weight_video", "without_audio"} <= set(columns)
    pd.testing.assert_frame_equal(table[columns], own[columns], rtol=0, atol=1e-6)
    figures = json.loads((brought / "again/metrics.json").read_text())
    assert figures["test"] == pytest.approx(json.loads((brought / "run/metrics.json").read_text())["test"])
    assert figures["counts"] == {"manifest": 36, "predicted": 35, "quarantined": 1}
    submission = pd.read_csv(brought / "again/submission.csv")
    assert submission["name"].tolist() == [f"c{i}" for i in range(24, 60)], "labelled clips are submitted too"
    assert pq.read_table(brought / "again/quarantine.parquet")["clip_id"].to_pylist() == ["c50"]
    assert not (brought / "again/rounds").exists(), "something was fitted"


def test_clips_that_were_trained_on_are_not_scored(brought, capsys):
    code, told = ask(capsys, "data.manifest=clips.csv", "run.dir=all", "max_error_fraction=0.001")
    assert code == 3, told
    figures = json.loads((brought / "all/metrics.json").read_text())
    assert (figures["trained_on"], figures["scored"], figures["counts"]["predicted"]) == (24, 15, 59)


def test_one_clip_can_be_asked_about_and_told_of(brought, capsys):
    code, told = ask(capsys, "data.manifest=one.csv", "run.dir=one")
    assert code == 0, told
    story = why.gather(Store(str(brought / "one")), "c59", with_faces=True)
    assert story.rounds == ()
    assert story.clip.label == why.gather(Store(str(brought / "run")), "c59", with_faces=True).clip.label


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
def test_what_the_run_cannot_use_is_refused_before_anything_starts(brought, arguments, error, told):
    settings = config.load(PredictConfig, "predict.yaml", ["model=run", "run.dir=refused", *arguments])
    with pytest.raises(error, match=told):
        predict.run(settings)
    assert not (brought / "refused").exists()


SPEAKERS = ("s0", "s1", "s2", "n0", "n1", "")
"""Of the new clips in turn; the run knows those that begin with s."""


@pytest.fixture(scope="module", params=["speaker", "voices"])
def standardised(request, tmp_path_factory):
    """The folder of a run on 100 clips standardised so, and of the features of 101 others."""
    folder = tmp_path_factory.mktemp(request.param)
    whole, _ = made.make(num_labelled=60, num_pool=40, num_test=101, absent=0.02)
    known, new = np.arange(100), whole.features.take(np.arange(100, 201))
    experiment = replace(
        whole,
        features=whole.features.take(known),
        labels=whole.labels[known],
        splits=whole.splits[:100],
        speakers=tuple(f"s{row // 3 % 3}" for row in known),
        pool=whole.pool[known],
    )
    store = Store(str(folder / "run"))
    run = made_finished.finish(experiment, store, standardise=request.param, learners=made.learners()[:1], rounds=0)
    made_finished.write(run, store)
    (folder / "features").mkdir()
    for feature in new.features:
        ids = np.array(new.clip_ids)[feature.present]
        np.savez(folder / f"features/{feature.name}.npz", clip_id=ids, vector=feature.values[feature.present])
    speakers = [SPEAKERS[row % len(SPEAKERS)] for row in range(101)]
    return folder, pd.DataFrame({"clip_id": new.clip_ids, "speaker": speakers})


def probabilities(standardised, rows, new_speakers):
    """Of the new clips at ``rows``, asked about together."""
    folder, clips = standardised
    clips.iloc[rows].to_csv(folder / "new.csv", index=False)
    data = {"layout": "manifest", "manifest": str(folder / "new.csv"), "features": str(folder / "features")}
    settings = PredictConfig(
        model=str(folder / "run"), run={"dir": str(folder / "out")}, data=data, predict={"new_speakers": new_speakers}
    )
    assert predict.run(settings) == 0
    table = pq.read_table(folder / "out/predictions.parquet").to_pandas().set_index("clip_id")
    return table.loc[clips["clip_id"].iloc[rows], [f"prob_{name}" for name in made.CLASSES]].to_numpy()


def test_with_whole_a_clip_is_told_the_same_alone_and_among_a_hundred_others(standardised):
    """One of a speaker that the run knows, and one of another."""
    among = {how: probabilities(standardised, list(range(101)), how) for how in ("whole", "batch")}
    for row in (6, 9):
        alone = probabilities(standardised, [row], "whole")[0]
        np.testing.assert_allclose(alone, among["whole"][row], rtol=0, atol=1e-6)
    assert abs(among["batch"] - among["whole"]).max() > 0.01
    assert abs(probabilities(standardised, [9], "batch")[0] - among["batch"][9]).max() > 1e-3
