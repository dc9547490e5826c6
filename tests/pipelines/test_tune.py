"""The search job as a user runs it, and its best config given to the main job."""

import json
import re
from pathlib import Path

import made_experiment as made
import made_job
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from mer_ray.config import MineConfig, TuneConfig, load
from mer_ray.pipelines import command, defaults, tune

ARGUMENTS = (
    "--config=jobs/configs/features.yaml",
    "data.manifest=clips.csv",
    "data.features=features",
    "run.dir=runs/search",
    "fit.epochs=6",
    "fit.folds=2",
    "fit.standardise=fold",
    "mining.rounds=1",
    "fit.hidden=16",
    "search.num_trials=3",
    "search.space.fit.hidden=[8, 16, 32]",
    "search.space.fit.dropout=null",
    "search.space.mining.strategy=[vote, topk]",
    "tune.loggers=[tensorboard]",
)


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    """A search on ready features of made-up clips; it has been run."""
    root = tmp_path_factory.mktemp("tune")
    experiment, truth = made.make(num_labelled=60, num_pool=60, num_test=30, distance=3.0, absent=0.0)
    ids = experiment.features.clip_ids
    split = [str(split) for split in experiment.splits]
    label = ["" if s == "unlabeled" else made.CLASSES[c] for s, c in zip(split, truth, strict=True)]
    pd.DataFrame({"clip_id": ids, "split": split, "label": label}).to_csv(root / "clips.csv", index=False)
    (root / "features").mkdir()
    for feature in experiment.features.features:
        np.savez(root / "features" / f"{feature.name}.npz", clip_id=np.array(ids), vector=feature.values)
    return root, made_job.here("tune", *ARGUMENTS, cwd=root, on_ray=True)


@pytest.fixture(scope="module")
def best(finished):
    root, done = finished
    assert done.returncode == 0, done.stderr
    return yaml.safe_load((root / "runs/search/best.yaml").read_text())


def test_the_trials_are_a_table_a_page_and_a_few_lines(finished, best):
    root, done = finished
    folder: Path = root / "runs/search"
    table = pq.read_table(folder / "trials.parquet").to_pandas()
    assert table["trial"].tolist() == [0, 1, 2]
    assert {"state", "oof_waf", "oof_waf_0", "rounds", "fit.hidden", "mining.strategy"} <= set(table.columns)
    assert "fit.dropout" not in table.columns, "null takes a key out of the search"
    assert set(table["fit.hidden"]) <= {8, 16, 32}
    csv = pd.read_csv(folder / "trials.csv")
    assert csv["oof_waf"].tolist() == pytest.approx(table["oof_waf"].tolist())
    assert table["fit.hidden"][0] == 16, "trial 0 is the config as given"
    assert table["gain"].isna().tolist() == (table["state"].ne("done") | table["trial"].eq(0)).tolist()
    gained = table[table["gain"] > table["noise"]].sort_values("oof_waf")
    taken = table.iloc[0] if gained.empty else gained.iloc[-1]
    assert best["fit"]["hidden"] == taken["fit.hidden"]
    assert f"taken: trial {taken['trial']}" in re.sub(r"\s+", " ", done.stdout)
    assert f"weighted F1 {100 * taken['oof_waf']:.1f} out of fold" in (folder / "tune.html").read_text()
    assert str(folder / "best.yaml") in done.stdout
    assert len(list(folder.glob("tensorboard/*/events.*"))) == 3


def test_the_best_config_is_one_that_mining_takes_and_comes_to_the_same_with(finished, best):
    root, _ = finished
    assert load(MineConfig, root / "runs/search/best.yaml").model_dump(mode="json") == best
    again = made_job.here("mine", "--config", "runs/search/best.yaml", cwd=root)
    assert again.returncode == 0, again.stderr
    rounds = json.loads((root / "runs/search-best/metrics.json").read_text())["rounds"]
    number = int(re.match(r"# Trial (\d+) of 3", (root / "runs/search/best.yaml").read_text()).group(1))
    objective = pq.read_table(root / "runs/search/trials.parquet").to_pandas()["oof_waf"][number]
    assert [one["oof_waf"] for one in rounds if one["kept"]][-1] == objective


def test_the_same_command_again_tries_nothing(finished, best):
    root, _ = finished
    before = {path: path.stat().st_mtime_ns for path in root.glob("runs/search/trials/journal/*")}
    assert before
    again = made_job.here("tune", *ARGUMENTS, cwd=root, on_ray=True)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in root.glob("runs/search/trials/journal/*")} == before
    assert yaml.safe_load((root / "runs/search/best.yaml").read_text()) == best


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["search.space.fit.dropot=[0.1, 0.5]"], "did you mean 'dropout'"),
        (["search.space.fit.folds=[2, 5]"], "must be the same for all trials"),
        (["search.spce={}"], "did you mean 'space'"),
        (["tune.loggers=[wandb]"], "tune.loggers.0"),
    ],
)
def test_bad_input_is_told_before_anything_starts(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "session", lambda runtime: pytest.fail("Ray was started"))
    code = command.main(
        job="tune",
        about="",
        model=TuneConfig,
        file=defaults.tune,
        arguments=["run.dir=run", *arguments],
    )
    assert code == 2
    assert told in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "file"), [([], "tune.yaml"), (["data.features=d", "data.manifest=x"], "features.yaml")]
)
def test_what_is_given_picks_the_config(overrides, file):
    assert defaults.tune(overrides) == file
