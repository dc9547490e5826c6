"""Self-training of a recogniser (P1 section 2.4.1): it labels a pool, keeps what it is sure of, and is trained again.

Each round: the best recogniser so far transcribes the pool by its beam; the segments of the highest mean score are
kept; another one is trained on them beside what is labelled; the held-out clips say whether it is better. The rounds
end with the first that is not. What a killed run had finished is read back and not done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mer_ray.recognisers.base import Recogniser, Transcript
from mer_ray.speech.errors import word_error_rate

Samples = NDArray[np.float32]
Train = Callable[[Mapping[str, str], Path], None]
"""Trains on pseudo-labels, text by clip, and leaves the recogniser in an empty folder."""
_STATE, _LABELS, _DONE = "rounds.json", "labels.json", "weights"


@dataclass(frozen=True)
class Round:
    """What came of a round; the first, of number 0, is what the rounds began with.

    Attributes:
        number: from 0.
        folder: of the recogniser, as ``Train`` left it; None of the first.
        kept: segments of the pool that were trained on.
        lowest_score: of them; None where none was kept.
        word_error_rate: on the held-out clips.
    """

    number: int
    folder: str | None
    kept: int
    lowest_score: float | None
    word_error_rate: float


def run(
    first: Recogniser,
    pool: Mapping[str, Samples],
    held_out: Sequence[tuple[str, Samples]],
    train: Train,
    opened: Callable[[Path], Recogniser],
    folder: Path,
    share: float = 0.5,
    most_rounds: int = 5,
) -> list[Round]:
    """Every round, the last of them the one that was no better, if there was such a one.

    Args:
        first: trained on what is labelled.
        pool: unlabelled segments by name.
        held_out: what was said, and its sound.
        train: makes the next recogniser.
        opened: the recogniser that ``train`` left in a folder.
        folder: of the rounds; made, or gone on in.
        share: of the pool that is kept, the surest first.
        most_rounds: after the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rounds = _read(folder / _STATE)
    if not rounds:
        rounds = [Round(0, None, 0, None, _errors(first, held_out))]
        _write(folder / _STATE, [asdict(rounds[0])])
    while len(rounds) <= most_rounds and best(rounds).number == rounds[-1].number:
        before = rounds[-1].folder
        teacher = first if before is None else opened(Path(before))
        rounds.append(_round(len(rounds), teacher, pool, held_out, train, opened, folder, share))
        _write(folder / _STATE, [asdict(one) for one in rounds])
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


def labels(folder: Path) -> dict[str, str]:
    """The pseudo-labels of a round in its folder: text by segment."""
    told = json.loads((folder / _LABELS).read_text(encoding="utf-8"))
    return {name: text for name, (text, _) in told.items()}


def _round(
    number: int,
    teacher: Recogniser,
    pool: Mapping[str, Samples],
    held_out: Sequence[tuple[str, Samples]],
    train: Train,
    opened: Callable[[Path], Recogniser],
    folder: Path,
    share: float,
) -> Round:
    own = folder / f"{number:02d}"
    own.mkdir(exist_ok=True)
    if not (own / _LABELS).exists():
        heard = dict(zip(pool, teacher.transcribe(list(pool.values())), strict=True))
        kept = surest(heard, share)
        _write(own / _LABELS, {name: [one.text, one.score] for name, one in kept.items()})
    told = json.loads((own / _LABELS).read_text(encoding="utf-8"))
    if not (own / _DONE).exists():
        beside = own / f"{_DONE}.part"
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed in training
        beside.mkdir()
        train(labels(own), beside)
        beside.rename(own / _DONE)
    lowest = min((float(score) for _, score in told.values()), default=None)
    return Round(number, str(own / _DONE), len(told), lowest, _errors(opened(own / _DONE), held_out))


def _errors(recogniser: Recogniser, held_out: Sequence[tuple[str, Samples]]) -> float:
    heard = recogniser.transcribe([samples for _, samples in held_out])
    return word_error_rate([text for text, _ in held_out], [one.text for one in heard])


def _read(path: Path) -> list[Round]:
    return [Round(**one) for one in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def _write(path: Path, content: object) -> None:
    """A file that is there once it is whole."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    beside.replace(path)
