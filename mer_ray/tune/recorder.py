"""What stands between Optuna and Tune: every trial is written down as it changes, and found again after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from mer_ray.data.storage import Store
from mer_ray.tune import record
from mer_ray.tune.record import Step, Tried, folder_of
from mer_ray.tune.space import Space

OBJECTIVE = "objective"
MINED = "mined.json"
"""What a trial leaves that is mined to its end."""

T = TypeVar("T")
OnChange = Callable[[Tried, Step | None], None]


class Recorder(Searcher):  # type: ignore[misc]  # Ray has no types
    """Optuna's suggestions, with every trial written down as it changes.

    ``trouble`` is the error that kept a trial from being written down; nothing is taken up after it.

    Args:
        space: what is drawn.
        seed: of the sampler.
        store: the folder ``trials/``; the trials in it are known from the start.
        on_change: told a trial and the step that it has just made, or None when it has ended.
    """

    def __init__(self, space: Space, seed: int, store: Store, on_change: OnChange) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.store = store
        self.trials: list[Tried] = []
        self.trouble: Exception | None = None
        self._optuna = OptunaSearch(space=space.draw, metric=OBJECTIVE, mode="max", seed=seed)
        self._on_change: OnChange | None = on_change
        self._number: dict[str, int] = {}
        self._told: set[int] = set()
        self._replay(record.load(store))
        self._waiting = [trial.number for trial in self.trials if trial.state == "running"]

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps its searcher for a restore that is never done; a console cannot be pickled."""
        return {**self.__dict__, "_on_change": None}

    def save(self, checkpoint_path: str) -> None:
        """See ``Searcher``; the trials' own files are what a search is known by."""
        Path(checkpoint_path).touch()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """See ``Searcher``: a trial cut short by a kill, else a new one."""
        return self._guarded(self._next, trial_id)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """See ``Searcher``; a step that is told again, by a trial gone on with, changes nothing."""
        self._guarded(self._note, self._number[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """See ``Searcher``. The learners of a trial that has ended are deleted; its config makes the same again."""
        self._guarded(self._end, self._number[trial_id], result, error)

    def fail(self, number: int, reason: str) -> None:
        """Write down why a trial failed."""
        self.trials[number] = replace(self.trials[number], reason=reason)
        record.save(self.store, self.trials[number])

    def _guarded(self, act: Callable[..., T], *arguments: Any) -> T | None:  # noqa: ANN401 - whatever it takes
        """Do it, unless there is trouble; Tune would log some errors and go on."""
        if self.trouble is None:
            try:
                return act(*arguments)
            except Exception as error:  # noqa: BLE001 - raised again once Tune has stopped
                self.trouble = error
        return None

    def _next(self, trial_id: str) -> dict[str, Any]:
        if not self._waiting:
            self._waiting.append(len(self.trials))
            self._ask()
        self._number[trial_id] = number = self._waiting.pop(0)
        return {"number": number, "values": dict(self.trials[number].values)}

    def _note(self, number: int, result: Mapping[str, Any]) -> None:
        trial = self.trials[number]
        step = Step(**{name: result[name] for name in Step.__dataclass_fields__})
        if step not in trial.steps:
            seconds = round(result["time_total_s"], 3)
            self._change(replace(trial, steps=(*trial.steps[: step.round], step), seconds=seconds), step)

    def _end(self, number: int, result: Mapping[str, Any] | None, error: bool) -> None:
        if result:
            self._note(number, result)
        mined = (self.store / folder_of(number)).exists(MINED)
        state: record.State = "failed" if error else "done" if mined else "stopped"
        self._change(replace(self.trials[number], state=state), None)
        self._tell([number])
        self._clear(number)

    def _clear(self, number: int) -> None:
        (self.store / folder_of(number)).remove("rounds")

    def _replay(self, found: Sequence[Tried]) -> None:
        """Bring Optuna to where it was: every suggestion asked for again, from the objectives that it was made from."""
        for trial in found:
            self._tell([number for number in trial.known if number not in self._told])
            if self._ask(trial) != trial.values:  # another Optuna, or an altered record: it is tried again
                break
        ended = [trial.number for trial in self.trials if trial.state != "running"]
        self._tell([number for number in ended if number not in self._told])
        for number in ended:
            self._clear(number)

    def _ask(self, earlier: Tried | None = None) -> Mapping[str, Any]:
        """The values of the next trial; it is written down, unless it is as it was ``earlier``."""
        number = len(self.trials)
        values: dict[str, Any] = self._optuna.suggest(folder_of(number))
        if earlier is not None and earlier.values == values:
            self.trials.append(earlier)
        else:
            (self.store / folder_of(number)).remove(MINED)
            self.trials.append(Tried(number, values, known=tuple(sorted(self._told))))
            record.save(self.store, self.trials[number])
        return values

    def _tell(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            trial = self.trials[number]
            result = None if trial.objective is None else {OBJECTIVE: trial.objective}
            self._optuna.on_trial_complete(folder_of(number), result, error=trial.state == "failed")
            self._told.add(number)

    def _change(self, trial: Tried, step: Step | None) -> None:
        self.trials[trial.number] = trial
        record.save(self.store, trial)
        if self._on_change is not None:
            self._on_change(trial, step)
