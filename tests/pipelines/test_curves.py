"""The curves of a training; a run taken up again goes on drawing the same ones."""

from importlib.util import find_spec

import pytest
from tensorboard_events import values

from mer_ray.config import LoggersConfig
from mer_ray.data.storage import Store
from mer_ray.pipelines import curves


def draw(folder, *names):
    """Two steps, a kill, and a third."""
    for steps in ((1, 2), (3,)):
        with curves.drawn(LoggersConfig(loggers=list(names)), Store(str(folder))) as told:
            for tell in told:
                for step in steps:
                    tell(step, {"loss": 1 / step, "valid": 0.25 * step})


def test_tensorboard_has_each_figure_as_a_curve(tmp_path):
    draw(tmp_path, "tensorboard")
    assert values(tmp_path / "tensorboard", "valid") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [step for step, _ in values(tmp_path / "tensorboard", "loss")] == [1, 2, 3]


@pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow is not installed")
def test_mlflow_has_one_run_of_them(tmp_path):
    from mlflow import MlflowClient  # noqa: PLC0415 - an extra

    draw(tmp_path, "mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(str(tmp_path)).experiment_id])
    told = client.get_metric_history(run.info.run_id, "valid")
    assert [(metric.step, metric.value) for metric in told] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_nothing_is_drawn_where_nothing_is_asked_for(tmp_path):
    draw(tmp_path)
    assert not list(tmp_path.iterdir())
