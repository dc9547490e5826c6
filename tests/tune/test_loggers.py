import math
from dataclasses import replace
from importlib.util import find_spec

import pytest
from tensorboard_events import events, values

from mer_ray.config import LoggersConfig
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, PluginError
from mer_ray.tune import loggers
from mer_ray.tune.record import Step, Tried

STEPS = (Step(0, 0.5, 0.5, 12, True), Step(1, 0.625, 0.625, 0, True))
TRIAL = Tried(3, {"fit.hidden": 64, "mining.strategy": "vote"}, steps=STEPS)


def settings(*names, **more):
    return LoggersConfig(loggers=list(names), **more)


def tell(logger):
    for step in STEPS:
        logger.log(TRIAL, step)
    logger.log(replace(TRIAL, state="done"), None)


def test_tensorboard_gets_a_curve_per_trial_and_its_values(tmp_path):
    (logger,) = loggers.make(settings("tensorboard", "tensorboard"), Store(str(tmp_path)))
    tell(logger)
    folder = tmp_path / "tensorboard/0003"
    assert values(folder, "objective") == [(0, 0.5), (1, 0.625)]
    text = str([v for e in events(folder) for v in e.summary.value if v.tag.startswith("_hparams_")])
    assert "fit.hidden" in text
    assert "vote" in text


@pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow is not installed")
def test_mlflow_gets_a_run_per_trial_the_same_one_after_a_kill(tmp_path):
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra

    for _ in range(2):
        (logger,) = loggers.make(settings("mlflow"), Store(str(tmp_path)))
        tell(logger)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(str(tmp_path)).experiment_id])
    assert run.data.params == {"fit.hidden": "64", "mining.strategy": "vote"}
    assert math.isclose(run.data.metrics["objective"], 0.625)
    assert run.info.status == "FINISHED"


def test_a_logger_that_cannot_be_had_is_told_before_anything_starts(tmp_path, monkeypatch):
    here, bucket = Store(str(tmp_path)), Store("s3://bucket/run")
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"mlflow, which is not installed; pip install -e '\.\[mlflow\]'"):
        loggers.check(settings("mlflow"), here)
    monkeypatch.setattr(loggers, "find_spec", lambda name: name)
    for name in ("tensorboard", "mlflow"):
        loggers.check(settings(name), here)
        with pytest.raises(ConfigError, match="writes to a disk"):
            loggers.check(settings(name), bucket)
    loggers.check(settings("mlflow", mlflow_uri="http://127.0.0.1:5000"), bucket)
