"""Which of two separated streams to keep, judged by what a recogniser understands of them (P1 section 2.4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Indel


@dataclass(frozen=True)
class Choice:
    """What was chosen and why.

    Attributes:
        index: the stream, 0 or 1; None keeps the original audio.
        similarity_0, similarity_1: how like the template each stream's transcript is, in [0, 1].
    """

    index: Literal[0, 1] | None
    similarity_0: float
    similarity_1: float


def similarity(a: str, b: str) -> float:
    """How alike two transcripts are, in [0, 1]: twice the longest common subsequence over both lengths, in characters.

    Capitals and spaces at the ends do not count. Two empty texts are alike; an empty and another are not.

    >>> similarity("abcd", "abce"), similarity("", ""), similarity("", "a")
    (0.75, 1.0, 0.0)
    """
    return float(Indel.normalized_similarity(a.strip().casefold(), b.strip().casefold()))


def choose(template: str, transcript_0: str, transcript_1: str, threshold: float = 0.1) -> Choice:
    """Take the stream whose transcript is more like the template, if it is so by more than ``threshold`` (P1: 0.1).

    Nothing can be judged by an empty template: the original is kept.
    """
    of_0, of_1 = similarity(template, transcript_0), similarity(template, transcript_1)
    if not template.strip() or abs(of_0 - of_1) <= threshold:
        return Choice(None, of_0, of_1)
    return Choice(0 if of_0 > of_1 else 1, of_0, of_1)
