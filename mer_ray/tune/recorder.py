"""What stands between Optuna and Tune: trials are asked for, and told as they change; a journal keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray
from optuna.trial import Trial
from ray import tune
from ray.tune.search import Searcher

from mer_ray.data.storage import Store
from mer_ray.tune.record import OOF, Step, Tried, folder_of
from mer_ray.tune.study import Suggestions
from mer_ray.tune.trials import cause

OBJECTIVE = "objective"

T = TypeVar("T")
OnChange = Callable[[Tried, Step | None], None]


class Recorder(Searcher):  # type: ignore[misc]  # Ray has no types
    """Tune's searcher. It asks the study, and notes each step and end of a trial in it.

    ``trouble`` is the error that kept a trial from being written down; nothing is taken up after it.

    Args:
        suggestions: of the study; its trials that were cut short are taken up first.
        store: the folder ``trials/``.
        on_change: told a trial and the step that it has just made, or None when it has ended.
    """

    def __init__(self, suggestions: Suggestions, store: Store, on_change: OnChange) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self.store = store
        self.trouble: Exception | None = None
        self._suggestions = suggestions
        self._on_change: OnChange | None = on_change
        self._trials: dict[str, Trial] = {}
        self._waiting = [trial.number for trial in self.tried if trial.state == "running"]
        for trial in self.tried:
            if trial.state != "running":
                self._clear(trial.number)

    @property
    def tried(self) -> list[Tried]:
        """Every trial, in order."""
        return self._suggestions.tried

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps its searcher for a restore that is never done; a console cannot be pickled."""
        return {**self.__dict__, "_on_change": None}

    def save(self, checkpoint_path: str) -> None:
        """See ``Searcher``; the journal is what a search is known by."""
        Path(checkpoint_path).touch()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """See ``Searcher``: a trial cut short by a kill, else a new one."""
        return self._guarded(self._next, trial_id)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """See ``Searcher``; a step that is told again, by a trial gone on with, changes nothing."""
        self._guarded(self._note, self._trials[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """See ``Searcher``; an error is told to ``on_trial_error``."""
        if not error:
            self._guarded(self._end, self._trials[trial_id], result)

    def on_trial_error(self, trial_id: str, reason: str) -> None:
        """A trial failed twice."""
        self._guarded(self._fail, self._trials[trial_id], reason)

    def _guarded(self, act: Callable[..., T], *arguments: Any) -> T | None:  # noqa: ANN401 - whatever it takes
        """Do it, unless there is trouble; Tune would log some errors and go on."""
        if self.trouble is None:
            try:
                return act(*arguments)
            except Exception as error:  # noqa: BLE001 - raised again once Tune has stopped
                self.trouble = error
        return None

    def _next(self, trial_id: str) -> dict[str, Any]:
        trial = self._suggestions.again(self._waiting.pop(0)) if self._waiting else self._suggestions.ask()
        self._trials[trial_id] = trial
        return {"number": trial.number, "values": dict(self.tried[trial.number].values)}

    def _note(self, trial: Trial, result: Mapping[str, Any]) -> None:
        step = Step(**{name: result[name] for name in Step.__dataclass_fields__})
        if step not in self.tried[trial.number].steps:
            self._suggestions.note(trial, step, round(result["time_total_s"], 3))
            self._change(trial.number, step)

    def _end(self, trial: Trial, result: Mapping[str, Any] | None) -> None:
        if result:
            self._note(trial, result)
        if result and OOF in result:
            self._suggestions.done(trial, result[OOF])
        else:
            self._suggestions.stopped(trial)
        self._ended(trial.number)

    def _fail(self, trial: Trial, reason: str) -> None:
        self._suggestions.failed(trial, reason)
        self._ended(trial.number)

    def _ended(self, number: int) -> None:
        self._change(number, None)
        self._clear(number)

    def _change(self, number: int, step: Step | None) -> None:
        if self._on_change is not None:
            self._on_change(self.tried[number], step)

    def _clear(self, number: int) -> None:
        """Delete the learners of a trial that has ended; its config makes the same again."""
        (self.store / folder_of(number)).remove("rounds")


class OnError(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Tells a recorder why a trial failed, which Tune does not tell its searcher."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """See ``tune.Callback``."""
        path = trial.pickled_error_file
        reason = cause(ray.cloudpickle.loads(Path(path).read_bytes())) if path else "no reason is known"
        self.recorder.on_trial_error(trial.trial_id, reason)
