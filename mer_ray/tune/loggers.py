"""Where else a search is told of: TensorBoard and MLflow, a run per trial, the same one after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from mer_ray.config import LoggersConfig
from mer_ray.data.storage import Store
from mer_ray.errors import ConfigError, PluginError
from mer_ray.tune.record import Step, Tried, folder_of

_FIGURES = ("objective", "oof_waf", "selected")
_ENDED = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_TAG = "mer_ray.trial"
_NEEDS = {"tensorboard": ("tensorboardX", "tensorboardX"), "mlflow": ("mlflow", "-e '.[mlflow]'")}


class Logger(Protocol):
    """One place that is told."""

    def log(self, trial: Tried, step: Step | None) -> None:
        """Tell of the step that a trial has just made, or None when it has ended."""


class TensorBoard:
    """Curves over the rounds of each trial, and its values beside what they came to, in ``<folder>/<trial>``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._writers: dict[int, Any] = {}

    def log(self, trial: Tried, step: Step | None) -> None:
        """See ``Logger``."""
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - only where it is asked for
        from tensorboardX.summary import hparams  # noqa: PLC0415

        if trial.number not in self._writers:
            self._writers[trial.number] = SummaryWriter(f"{self.folder}/{folder_of(trial.number)}", flush_secs=10)
        writer = self._writers[trial.number]
        if step is not None:
            for name in _FIGURES:
                writer.add_scalar(name, getattr(step, name), step.round)
            return
        values = {
            key: value if isinstance(value, bool | int | float) else str(value) for key, value in trial.values.items()
        }
        for summary in hparams(values, {"objective": trial.objective}):
            writer.file_writer.add_summary(summary)
        self._writers.pop(trial.number).close()


class MLflow:
    """A run per trial, found again by its tag.

    Args:
        uri: tracking address.
        search: name of the experiment in MLflow; trials of equal numbers are taken for the same in it.
    """

    def __init__(self, uri: str, search: str) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415 - heavy, and only where it is asked for

        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(search)
        self._experiment = found.experiment_id if found else self._client.create_experiment(search)
        self._runs: dict[int, str] = {}

    def log(self, trial: Tried, step: Step | None) -> None:
        """See ``Logger``."""
        run_id = self._runs.get(trial.number) or self._open(trial)
        self._runs[trial.number] = run_id
        if step is None:
            self._client.set_terminated(run_id, _ENDED[trial.state])
            return
        for name in _FIGURES:
            self._client.log_metric(run_id, name, getattr(step, name), step=step.round)

    def _open(self, trial: Tried) -> str:
        name = folder_of(trial.number)
        found = self._client.search_runs([self._experiment], f"tags.`{_TAG}` = '{name}'")
        if found:
            return str(found[0].info.run_id)
        run_id = str(self._client.create_run(self._experiment, tags={_TAG: name}, run_name=name).info.run_id)
        for key, value in trial.values.items():
            self._client.log_param(run_id, key, value)
        return run_id


def check(settings: LoggersConfig, run_dir: Store, section: str = "tune") -> None:
    """Refuse loggers that cannot be had, before anything is started.

    Args:
        settings: which are wanted.
        run_dir: where they write.
        section: of the config, that names them.

    Raises:
        ConfigError: a logger that writes to a disk, with a run directory in S3.
        PluginError: a library is not installed.
    """
    for name in settings.loggers:
        module, package = _NEEDS[name]
        if find_spec(module) is None:
            raise PluginError(
                f"{section}.loggers: {name} needs {module}, which is not installed; pip install {package}"
            )
        if not run_dir.is_local and (name == "tensorboard" or settings.mlflow_uri is None):
            told = f"{section}.mlflow_uri is set" if name == "mlflow" else "run.dir is local"
            raise ConfigError(
                f"{section}.loggers: {name} writes to a disk, and run.dir is {run_dir}; use it when {told}"
            )


def make(settings: LoggersConfig, run_dir: Store) -> Sequence[Logger]:
    """The loggers that the config asks for; see ``check``."""
    made: list[Logger] = []
    for name in dict.fromkeys(settings.loggers):
        if name == "tensorboard":
            made.append(TensorBoard(run_dir.path("tensorboard")))
        else:
            made.append(MLflow(address(settings, run_dir), run_dir.path()))
    return made


def address(settings: LoggersConfig, run_dir: Store) -> str:
    """Where MLflow is told."""
    return settings.mlflow_uri or f"sqlite:///{run_dir.path('mlflow.db')}"
