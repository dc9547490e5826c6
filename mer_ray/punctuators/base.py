"""What a punctuator is: recognised words in, the same words with punctuation marks out (P1: it carries emotion)."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mer_ray.pretrained import plugin
from mer_ray.pretrained.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

Config = plugin.Config
"""Base of every punctuator's ``Config``."""


@dataclass(frozen=True)
class Labels:
    """What a model says of windows of tokens or words: the likeliest label of each (B, T), and how many there are."""

    labels_BT: Tensor
    lengths: Sequence[int]

    def apart(self) -> list[list[int]]:
        """Of each window, its own."""
        return [row[:length] for row, length in zip(self.labels_BT.cpu().tolist(), self.lengths, strict=True)]


class Punctuator(Plugin, ABC):
    """Puts marks behind words, and changes none of them but in its capitals."""

    @abstractmethod
    def punctuate(self, texts: Sequence[str]) -> list[str]:
        """Each text with its marks, in their order; an empty one stays empty, and none depends on those beside it."""


def may_have_mark(line: str, end: int) -> bool:
    """Whether a word ends at a place of a text, or a sign of a script without spaces, and none stands there yet.

    >>> [may_have_mark("go on, 你好", end) for end in (1, 2, 6, 8, 9)]
    [False, True, False, True, True]
    """
    sign, following = line[end - 1], line[end : end + 1]
    if not sign.isalnum():
        return False
    unspaced = unicodedata.name(sign, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI"))
    return not following or following.isspace() or (unspaced and following.isalnum())


def marked(line: str, marks: Mapping[int, str]) -> str:
    """A text with marks behind the places that they are told of."""
    places = sorted(marks)
    parts = [line[start:end] for start, end in zip([0, *places], [*places, len(line)], strict=True)]
    return "".join(part + marks.get(place, "") for part, place in zip(parts, [*places, -1], strict=True))
