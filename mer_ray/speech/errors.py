"""How far words are from those that were said."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Words put in, left out and changed, over all clips, per word that was said; more than 1 where many are put in.

    Raises:
        ValueError: no word was said at all.

    >>> word_error_rate(["a b c", "d"], ["a x c", "d e"])
    0.5
    """
    pairs = [(one.split(), other.split()) for one, other in zip(said, heard, strict=True)]
    words = sum(len(one) for one, _ in pairs)
    if not words:
        raise ValueError("no word was said, so there is no rate of errors")
    return sum(Levenshtein.distance(one, other) for one, other in pairs) / words
