"""Self-training of a recogniser (P1 section 2.4.1): it labels a pool, keeps what it is sure of, and is trained again.

Each round: the best recogniser so far transcribes the pool by its beam; the segments of the highest mean score are
kept; another one is trained on them beside what is labelled; the held-out clips say whether it is better. The rounds
end with the first that is not. What a killed run had finished is read back and not done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from mer_ray.data.storage import Store
from mer_ray.recognisers.base import Transcript

_ROUNDS, _LABELS = "rounds.json", "labels.json"


class Steps(Protocol):
    """What a round is made of. Its recogniser is known by its number; 0 is of the one that the rounds begin with."""

    def transcribe(self, number: int) -> Mapping[str, Transcript]:
        """What the recogniser of a round hears in the pool, by segment."""

    def train(self, number: int, labels: Mapping[str, str]) -> None:
        """Make the recogniser of a round with pseudo-labels, text by segment; one that a kill cut short, again."""

    def errors(self, number: int) -> float:
        """The word error rate of the recogniser of a round on the held-out clips."""


@dataclass(frozen=True)
class Round:
    """What came of a round; the first, of number 0, is what the rounds began with.

    Attributes:
        number: from 0.
        kept: segments of the pool that were trained on.
        lowest_score: of them; None where none was kept.
        word_error_rate: on the held-out clips.
    """

    number: int
    kept: int
    lowest_score: float | None
    word_error_rate: float


def run(steps: Steps, folder: Store, share: float = 0.5, most_rounds: int = 5) -> list[Round]:
    """Every round, the last of them the one that was no better, if there was such a one.

    Args:
        steps: what transcribes, trains and counts errors.
        folder: of the rounds; begun, or gone on in.
        share: of the pool that is kept, the surest first.
        most_rounds: after the first.
    """
    rounds = _read(folder)
    if not rounds:
        rounds = [Round(0, 0, None, steps.errors(0))]
        _write(folder, rounds)
    while len(rounds) <= most_rounds and best(rounds).number == rounds[-1].number:
        rounds.append(_round(steps, len(rounds), folder, share))
        _write(folder, rounds)
    return rounds


def best(rounds: Sequence[Round]) -> Round:
    """The round of the fewest errors, the earliest of equals."""
    return min(rounds, key=lambda one: one.word_error_rate)


def surest(transcripts: Mapping[str, Transcript], share: float) -> dict[str, Transcript]:
    """The share of the segments with words that has the highest scores; of equals the first by name.

    Segments without words or without a score are never kept.
    """
    scored = {name: one for name, one in transcripts.items() if one.text and one.score is not None}
    ranked = sorted(scored, key=lambda name: (-(scored[name].score or 0.0), name))
    return {name: scored[name] for name in ranked[: round(share * len(transcripts))]}


def labels(folder: Store, number: int) -> dict[str, str]:
    """The pseudo-labels of a round: text by segment."""
    return {name: text for name, (text, _) in _told(folder, number).items()}


def _round(steps: Steps, number: int, folder: Store, share: float) -> Round:
    if not folder.exists(f"{number:02d}/{_LABELS}"):
        kept = surest(steps.transcribe(number - 1), share)
        told = {name: [one.text, one.score] for name, one in kept.items()}
        folder.write(f"{number:02d}/{_LABELS}", json.dumps(told, indent=1).encode())
    scores = [score for _, score in _told(folder, number).values()]
    steps.train(number, labels(folder, number))
    return Round(number, len(scores), min(scores, default=None), steps.errors(number))


def _told(folder: Store, number: int) -> dict[str, tuple[str, float]]:
    return dict(json.loads(folder.read(f"{number:02d}/{_LABELS}")))


def _read(folder: Store) -> list[Round]:
    return [Round(**one) for one in json.loads(folder.read(_ROUNDS))] if folder.exists(_ROUNDS) else []


def _write(folder: Store, rounds: Sequence[Round]) -> None:
    folder.write(_ROUNDS, json.dumps([asdict(one) for one in rounds], indent=1).encode())
