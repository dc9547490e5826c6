"""No punctuation: words as they were recognised."""

from __future__ import annotations

from collections.abc import Sequence

from mer_ray.punctuators import base


class Config(base.Config):
    """There is nothing to choose."""


class Punctuator(base.Punctuator):
    """Leaves every text as it is."""

    version = 1

    def punctuate(self, texts: Sequence[str]) -> list[str]:
        """See the base class."""
        return list(texts)
