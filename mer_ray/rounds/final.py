"""``rounds/final.json``: the learners that have the last word, of which round, and how their votes make one label.

It is all that a finished run must tell, beside its learners' own files, for other clips to be labelled as its own were.

Shapes: K learners, N clips, C classes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mer_ray.data.storage import Store
from mer_ray.errors import CorruptPartError, InputError
from mer_ray.rounds import ensemble
from mer_ray.rounds.ensemble import Ensemble

_NAME = "final.json"


@dataclass(frozen=True)
class Voter:
    """One learner of the final ensemble: as it was in ``round``.

    Attributes:
        name: the learner's.
        round: the last that was kept.
        temperatures: what its votes are tempered by, one per model.
    """

    name: str
    round: int
    temperatures: tuple[float, ...]


@dataclass(frozen=True)
class Read:
    """A feature that the learners were given."""

    name: str
    modality: str
    width: int


@dataclass(frozen=True)
class Final:
    """The final ensemble.

    Attributes:
        how: ``mode`` or ``mean``.
        class_names: C classes, in order.
        prior: of each class; the answer for a clip on which all abstain.
        voters: best first by out-of-fold WAF.
        features: what the learners were given, in order.
        valence: the mean of training; None where it is not learnt.
        temperature: what the ensemble's probabilities are tempered by.
    """

    how: Literal["mode", "mean"]
    class_names: tuple[str, ...]
    prior: tuple[float, ...]
    voters: tuple[Voter, ...]
    features: tuple[Read, ...]
    valence: float | None = None
    temperature: float = 1.0

    def combine(self, votes_KNC: NDArray[np.floating]) -> Ensemble:
        """One label per clip; ``votes_KNC`` in the order of ``voters``, NaN rows where a learner abstains."""
        said = ensemble.combine(self.how, votes_KNC, range(len(self.voters)), np.array(self.prior))
        return said.tempered(np.full(len(said.label), self.temperature))

    def write(self, rounds: Store) -> None:
        """Write ``final.json`` into the folder ``rounds/``."""
        rounds.write(_NAME, json.dumps(asdict(self), indent=1, ensure_ascii=False).encode())

    @classmethod
    def read(cls, rounds: Store) -> Final:
        """From ``write``.

        Raises:
            InputError: the run is not finished.
            CorruptPartError: the file is damaged.
        """
        try:
            told: dict[str, Any] = json.loads(rounds.read(_NAME))
            voters = tuple(Voter(one["name"], one["round"], tuple(one["temperatures"])) for one in told["voters"])
            features = tuple(Read(**one) for one in told["features"])
            names, prior = tuple(told["class_names"]), tuple(told["prior"])
            return cls(told["how"], names, prior, voters, features, told["valence"], told["temperature"])
        except FileNotFoundError as error:
            raise InputError(
                f"{rounds.path(_NAME)} is not there: the run is not finished; give its command again and let it end"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptPartError(
                f"{rounds.path(_NAME)} is damaged ({error}); give the run's command again to write it anew"
            ) from error
