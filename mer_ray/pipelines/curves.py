"""The curves of a training, where people look at curves: TensorBoard and MLflow; the same ones after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from mer_ray.config import LoggersConfig
from mer_ray.data.storage import Store
from mer_ray.tune import loggers

Tell = Callable[[int, Mapping[str, float]], None]
"""Called with a step and its figures."""


@contextmanager
def drawn(settings: LoggersConfig, run_dir: Store) -> Iterator[Sequence[Tell]]:
    """Those that the config asks for, whole at the end of the block; see ``tune.loggers.check``."""
    makers = {"tensorboard": _tensorboard, "mlflow": _mlflow}
    with ExitStack() as block:
        yield [makers[name](settings, run_dir, block) for name in dict.fromkeys(settings.loggers)]


def _tensorboard(settings: LoggersConfig, run_dir: Store, block: ExitStack) -> Tell:
    from tensorboardX import SummaryWriter  # noqa: PLC0415 - only where it is asked for

    suffix = f".{time.time_ns()}"  # else a writer of the same second would write over it
    writer = SummaryWriter(run_dir.path("tensorboard"), flush_secs=10, filename_suffix=suffix)
    block.callback(writer.close)

    def tell(step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    return tell


def _mlflow(settings: LoggersConfig, run_dir: Store, block: ExitStack) -> Tell:
    from mlflow import MlflowClient  # noqa: PLC0415 - heavy, and only where it is asked for

    client, name = MlflowClient(tracking_uri=loggers.address(settings, run_dir)), run_dir.path()
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    runs = client.search_runs([experiment])
    run_id = runs[0].info.run_id if runs else client.create_run(experiment, run_name="training").info.run_id

    def tell(step: int, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            client.log_metric(run_id, key, value, step=step)

    return tell
