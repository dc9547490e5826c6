"""The ``trials/`` of a search's run directory: what was tried, and what came of it, one folder per trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mer_ray import config as configs
from mer_ray.data.storage import Store

TRIALS = "trials"
_SEARCH = "search.json"
_TRIAL = "trial.json"

State = Literal["running", "done", "stopped", "failed"]


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
        number: counted from 0, in the order in which they were suggested.
        values: by key of the config.
        known: the trials whose objective the suggestion was made from.
        steps: one per round.
        state: ``running``, ``done`` (mined to its end), ``stopped`` (behind at a rung), ``failed``.
        reason: why it failed.
        seconds: of its last start.
    """

    number: int
    values: Mapping[str, Any]
    known: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()
    state: State = "running"
    reason: str = ""
    seconds: float = 0.0

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


def save(trials: Store, trial: Tried) -> None:
    """Write a trial's ``trial.json``, with a checksum."""
    told = asdict(trial)
    told["sha256"] = configs.digest(told)
    trials.write(f"{folder_of(trial.number)}/{_TRIAL}", json.dumps(told, indent=1, ensure_ascii=False).encode())


def load(trials: Store) -> list[Tried]:
    """The trials of a search in order, up to the first that is missing or damaged."""
    found: list[Tried] = []
    while True:
        try:
            told = json.loads(trials.read(f"{folder_of(len(found))}/{_TRIAL}"))
            if told.pop("sha256") != configs.digest(told) or told["number"] != len(found):
                return found
            steps = tuple(Step(**step) for step in told.pop("steps"))
            found.append(Tried(**{**told, "known": tuple(told["known"]), "steps": steps}))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return found


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
