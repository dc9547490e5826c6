"""What a punctuator is: recognised words in, the same words with punctuation marks out (P1: it carries emotion)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mer_ray.pretrained import plugin
from mer_ray.pretrained.plugin import Plugin

Config = plugin.Config
"""Base of every punctuator's ``Config``."""


class Punctuator(Plugin, ABC):
    """Puts marks behind words, and changes none of them but in its capitals."""

    @abstractmethod
    def punctuate(self, texts: Sequence[str]) -> list[str]:
        """Each text with its marks, in their order; an empty one stays empty, and none depends on those beside it."""
