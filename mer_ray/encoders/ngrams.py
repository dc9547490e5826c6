"""Character and word n-grams hashed to a fixed width: text features for any language, with nothing to learn or load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.feature_extraction.text import HashingVectorizer

from mer_ray.encoders import base
from mer_ray.encoders.base import ClipInput
from mer_ray.types import Modality


class Config(base.Config):
    """Width of the two halves and lengths of the n-grams."""

    width: int = Field(512, ge=16, description="numbers per clip, half of them for characters, half for words")
    max_characters: int = Field(3, ge=1, le=8, description="longest character n-gram; punctuation counts")
    max_words: int = Field(2, ge=1, le=4, description="longest word n-gram")


class Encoder(base.Encoder):
    """One row per clip: signed hashed counts of character n-grams and of word n-grams, each half of unit length.

    A text without any n-gram of a kind has zeros in that half: an empty transcript is all zeros. A long one is counted
    whole.
    """

    modality = Modality.TEXT
    reads = ("transcript",)
    version = 1
    config: Config

    @property
    def dim(self) -> int:
        """Both halves."""
        return 2 * (self.config.width // 2)

    def encode(self, clips: Sequence[ClipInput]) -> list[NDArray[np.float32]]:
        """See the base class."""
        if not clips:
            return []
        texts = [clip.text or "" for clip in clips]
        half, dtype = self.config.width // 2, np.float32
        characters = HashingVectorizer(
            analyzer="char", ngram_range=(1, self.config.max_characters), n_features=half, dtype=dtype
        )
        words = HashingVectorizer(
            token_pattern=r"(?u)\w+", ngram_range=(1, self.config.max_words), n_features=half, dtype=dtype
        )
        rows = np.hstack([kind.transform(texts).toarray() for kind in (characters, words)])
        return [row[None].astype(np.float32) for row in rows]
