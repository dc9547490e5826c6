"""The ``trials/`` of a search's run directory, and what came of each trial as the journal in it tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from mer_ray.data.storage import Store

TRIALS = "trials"
REASON = "reason"
OOF = "oof"
"""What a trial tells with its last step when it is mined to its end: see ``Tried.oof``."""
_SEARCH = "search.json"

State = Literal["running", "done", "stopped", "failed"]
_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Step:
    """What a trial told after a round.

    Attributes:
        round: 0 is the labelled data alone.
        oof_waf: of the round.
        objective: out-of-fold WAF of the last round kept, which is what mining comes to so far.
        selected: clips that its votes adopt for the next round.
        kept: False when the guard dropped it.
    """

    round: int
    oof_waf: float
    objective: float
    selected: int
    kept: bool


@dataclass(frozen=True)
class Tried:
    """One trial of a search.

    Attributes:
        number: counted from 0, in the order in which they were suggested; 0 is the config as given.
        values: by key of the config.
        steps: one per round.
        state: ``running``, ``done`` (mined to its end), ``stopped`` (behind at a rung), ``failed``.
        reason: why it failed.
        seconds: of its last start.
        oof: of a trial that is done, the class that it predicts of each labelled clip out of fold.
    """

    number: int
    values: Mapping[str, Any]
    steps: tuple[Step, ...] = ()
    state: State = "running"
    reason: str = ""
    seconds: float = 0.0
    oof: tuple[int, ...] = ()

    @property
    def objective(self) -> float | None:
        """As of the last step; None of a trial that failed or has not got so far."""
        return self.steps[-1].objective if self.steps and self.state != "failed" else None


def folder_of(number: int) -> str:
    """The folder of a trial.

    >>> folder_of(7)
    '0007'
    """
    return f"{number:04d}"


def read(trial: FrozenTrial, given: Mapping[str, Any]) -> Tried:
    """A trial as the journal has it; ``given`` are the values of the config, which trial 0 has."""
    noted = trial.user_attrs
    rounds = [noted[str(number)] for number in sorted(trial.intermediate_values) if str(number) in noted]
    return Tried(
        number=trial.number,
        values=dict(trial.params if trial.number else given),
        steps=tuple(Step(**one["step"]) for one in rounds),
        state=_STATES.get(trial.state, "running"),
        reason=noted.get(REASON, ""),
        seconds=rounds[-1]["seconds"] if rounds else 0.0,
        oof=tuple(int(label) for label in noted.get(OOF, "").split()),
    )


def open_trials(run_dir: Store, digest: str) -> tuple[Store, str | None]:
    """The folder of the search ``digest``; the trials of another are moved aside first, never mixed.

    Returns:
        The folder, and the name under which an earlier search's was kept, or None.
    """
    store = run_dir / TRIALS
    moved = None
    try:
        earlier = json.loads(store.read(_SEARCH))["digest"]
    except FileNotFoundError:
        earlier = digest
    except (ValueError, KeyError, TypeError):
        earlier = "damaged"
    if earlier != digest:
        moved = f"{TRIALS}.{earlier}"
        while run_dir.files(moved) or run_dir.folders(moved):
            moved += "+"
        run_dir.move(TRIALS, moved)
    store.write(_SEARCH, json.dumps({"digest": digest}).encode())
    return store, moved
