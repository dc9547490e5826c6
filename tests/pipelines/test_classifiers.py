"""Learners that are no networks, through the jobs as a user runs them."""

import in_process
import made_runs
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mer_ray.data.storage import Store
from mer_ray.pipelines import finished

LEARNERS = (
    "learners=[{name: a, features: [audio, face_net], model: lda_em}, {name: b, features: [audio], model: linear}]"
)


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    return made_runs.of_vectors(tmp_path_factory.mktemp("classifiers"), LEARNERS)


def test_they_mine_and_explain_themselves(mined):
    table = pq.read_table(mined / "run/predictions.parquet").to_pandas().set_index("clip_id")
    truth = np.array(made_runs.CLASSES)[[int(clip[1:]) % 3 for clip in table.index]]
    assert (table["label"] == truth).mean() > 0.85
    weights = table[["weight_audio", "weight_video"]].to_numpy(float)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert table.loc["c45", "weight_video"] == 0
    falls = table[["without_audio", "without_video"]].to_numpy(float)
    assert np.nanmax(np.abs(falls)) > 0.05
    assert np.isnan(table.loc["c45", "without_video"]) or table.loc["c45", "without_video"] == 0
    same = [near[0] == given for near, given in zip(table["nearest_given"], truth, strict=True)]
    assert np.mean(same) > 0.7, "the nearest labelled clips are of the class"
    models = [type(learner.model).__module__ for learner in finished.read(Store(str(mined / "run"))).learners]
    assert sorted(models) == ["mer_ray.classifiers.lda_em", "mer_ray.classifiers.linear"]


def test_new_clips_get_the_answers_of_the_run_and_why_tells_of_them(mined, capsys, monkeypatch):
    monkeypatch.chdir(mined)
    table = pd.read_csv("clips.csv", keep_default_na=False)
    table[table["split"] != "train"].drop(columns="split").to_csv("new.csv", index=False)
    assert in_process.run("predict", "model=run", "data.features=features", "data.manifest=new.csv", "run.dir=new") == 0
    new = pq.read_table("new/predictions.parquet").to_pandas().set_index("clip_id")
    own = pq.read_table("run/predictions.parquet").to_pandas().set_index("clip_id").loc[new.index]
    columns = [name for name in new.columns if name.startswith(("prob_", "vote_", "weight_", "without_"))]
    pd.testing.assert_frame_equal(new[columns], own[columns], rtol=0, atol=1e-5)
    capsys.readouterr()
    assert in_process.run("why", "run.dir=run", "clip=c30") == 0
    assert "c30" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("learners", "more", "told"),
    [
        (
            "[{name: a, features: [audio], model: {name: lda_em, options: {shrnk: 1}}}]",
            "seed=0",
            "did you mean 'shrink'",
        ),
        ("[{name: a, features: [audio], model: lda}]", "seed=0", "did you mean 'lda_em'"),
        ("[{name: a, features: [audio], model: lda_em}]", "fit.valence=1", "valence"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_started(mined, capsys, learners, more, told):
    given = [f"data.manifest={mined}/clips.csv", f"data.features={mined}/features", f"run.dir={mined}/none"]
    assert in_process.run("mine", *given, f"learners={learners}", more) == 2
    printed = capsys.readouterr()
    assert told in printed.out + printed.err
    assert not (mined / "none").exists()
