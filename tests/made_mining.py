"""The mining loop run on a made experiment, with what it told and left."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import made_experiment as made
import numpy as np
import pyarrow.parquet as pq

from mer_ray import progress
from mer_ray.data.storage import Store
from mer_ray.learners.learner import Predictions
from mer_ray.tune.controller import Controller
from mer_ray.tune.mined import Mined

LEARNERS = [learner.name for learner in made.learners()]


@dataclass
class Done:
    """A finished loop and what it told."""

    folder: Path
    experiment: object
    controller: Controller
    mined: Mined
    fits: list = field(default_factory=list)
    events: list = field(default_factory=list)
    told: list = field(default_factory=list)

    @property
    def rounds(self):
        return self.folder / "rounds"

    @property
    def held_out(self):
        return self.controller.committee.held_out

    def predictions(self, number, learner):
        return Predictions.from_bytes((self.rounds / f"{number:02d}/{learner}/predictions.safetensors").read_bytes())

    def selected(self, number):
        return pq.read_table(self.rounds / f"{number:02d}/selected.parquet").to_pylist()


def mine(folder, experiment, settings, change=lambda controller: None):
    fits, events, told = [], [], []
    controller = Controller(
        experiment,
        settings,
        Store(str(folder)),
        on_event=lambda kind, **fields: events.append((kind, fields)),
        on_fit=fits.append,
    )
    change(controller)
    with progress.heard(lambda share, what: told.append((share, what))):
        mined = controller.mine()
    return Done(Path(folder), experiment, controller, mined, fits, events, told)


def artifacts(rounds):
    """What the rounds are, file by file, without the seconds that they took."""
    found = {str(path.relative_to(rounds)): path.read_bytes() for path in rounds.rglob("*") if path.is_file()}
    for name, data in found.items():
        if name.count("/") >= 2 and name.endswith("metrics.json"):
            found[name] = {key: value for key, value in json.loads(data).items() if key != "seconds"}
    return found


def same(one, other):
    """Whether two results are equal to the bit."""
    np.testing.assert_array_equal(one.final.probabilities, other.final.probabilities)
    np.testing.assert_array_equal(one.final.label, other.final.label)
    assert len(one.rounds) == len(other.rounds)
    for a, b in zip(one.rounds, other.rounds, strict=True):
        assert (a.number, a.learners, a.learner_waf, a.oof_waf) == (b.number, b.learners, b.learner_waf, b.oof_waf)
        for learner in a.learners:
            np.testing.assert_array_equal(a.votes[learner], b.votes[learner])
            np.testing.assert_array_equal(a.weights[learner], b.weights[learner])
    return True


def brief(settings, **fit):
    """The same job of shorter fits, for tests of what happens around them."""
    return settings.model_copy(update={"fit": settings.fit.model_copy(update={"epochs": 8, **fit})})
