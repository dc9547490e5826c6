"""Labels that look misspelt: a class of few clips whose name is an edit or two from a larger class's."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence

from rapidfuzz import process
from rapidfuzz.distance import OSA

from mer_ray.data.sheet import Problems
from mer_ray.types import SYNONYMS

_FEW = 2
_TIMES = 50  # a class is also small beside one of fifty times its clips: 2%
_LONG = 6
_SHORT = 3
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")
_SHOWN = 10


def check(labels: Sequence[str | None], places: Sequence[str], problems: Problems) -> None:
    """Note every class that is likely a slip for a larger one; capitals and spaces at the ends do not count.

    It has at most 2 clips, or at most 2% of the larger one's, and its name becomes the larger one's by 1 edit, or by 2
    where the larger one's has six letters or more: a letter put in, left out or replaced, or two neighbours swapped.
    Classes are compared as they are spelled in the file; spellings of one meaning are one class, as everywhere.

    Two kinds of names are near each other by nature and never slips: names of which each holds a number, and not the
    same ("1" and "10", "level 1" and "level 2"); and whatever is near a name of one or two letters ("sa" and "su" are
    codes, and words of two Chinese characters often share one).

    Args:
        labels: of each row, None where it has none.
        places: what each row is called in messages.
        problems: where a slip is noted, once per spelling, with the places of its clips.
    """
    spelled: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        if label:
            spelled[label.strip().lower()].append(row)
    classes: Counter[str] = Counter()
    for word, rows in spelled.items():
        classes[SYNONYMS.get(word, word)] += len(rows)
    sizes = {word: classes[SYNONYMS.get(word, word)] for word in spelled}
    largest_first = sorted(sizes, key=lambda word: -sizes[word])
    for word, rows in spelled.items():
        size = sizes[word]
        least = size + 1 if size <= _FEW else size * _TIMES
        larger = largest_first[: bisect_right(largest_first, -least, key=lambda other: -sizes[other])]
        if found := _nearest(word, larger):
            like, edits = found
            problems.add(
                _listed([places[row] for row in rows]),
                f"class {word!r} ({size} clip(s)) is {edits} edit(s) from {like!r} ({sizes[like]} clips) and taken for "
                f"a slip; correct the label, or, if it is a class of its own, list it with all others: "
                f"labels=[{word},{like},...]",
            )


def _nearest(word: str, larger: Sequence[str]) -> tuple[str, int] | None:
    """The first of the names with fewest edits to ``word``, and their number; None where none is near enough."""
    near = [
        (edits, index)
        for like, edits, index in process.extract_iter(word, larger, scorer=OSA.distance, score_cutoff=2)
        if edits <= (2 if len(like) >= _LONG else 1) and _comparable(word, like)
    ]
    if not near:
        return None
    edits, index = min(near)
    return larger[index], int(edits)


def _comparable(word: str, like: str) -> bool:
    """Whether it tells anything that two names are near each other.

    >>> _comparable("sda", "sad"), _comparable("1", "10"), _comparable("sad1", "sad"), _comparable("sa", "su")
    (True, False, True, False)
    """
    numbers, others = _NUMBER.findall(word), _NUMBER.findall(like)
    return len(like) >= _SHORT and not (numbers and others and numbers != others)


def _listed(places: Sequence[str]) -> str:
    """The first ten, and how many more there are.

    >>> _listed(["row 2", "row 9"]), _listed([f"row {i}" for i in range(13)])[-18:]
    ('row 2, row 9', 'row 9 and 3 others')
    """
    rest = len(places) - _SHOWN
    return ", ".join(places[:_SHOWN]) + (f" and {rest} others" if rest > 0 else "")
