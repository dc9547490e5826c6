"""A clip as it would be heard in noise: what the noise track gives a finished ensemble to predict (MER-NOISE).

Shapes: S samples.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mer_ray.speech.augment import QUIET, at_snr, check_sound, fitting, read_sound, rms, sound_files

_VOICES = 4
"""So many speak at once in babble."""
_DRAWS = 16
"""A stretch of a recording may be silent: so often another is drawn."""


@dataclass(frozen=True)
class Noise:
    """Sounds of a folder under a clip; the same draws at every ratio, so that cases differ by that alone.

    Attributes:
        kind: one sound is drawn for a clip, or four, equally loud, for a babble.
        snr_db: power of the clip over that of the noise, both over the clip's length.
        folder: of .wav and .flac files, at any depth.
        seed: of what is drawn for each clip.
    """

    kind: Literal["environment", "babble"]
    snr_db: float
    folder: str
    seed: int

    def check(self) -> None:
        """Hold every sound of the folder to being one.

        Raises:
            ConfigError: there is none, or one cannot be opened.
        """
        for path in sound_files(self.folder):
            check_sound(path)

    @cached_property
    def identity(self) -> str:
        """The hash of the folder's sounds and of their names in it.

        Raises:
            ConfigError: there are none.
        """
        digest = hashlib.sha256()
        for path in sound_files(self.folder):
            digest.update(f"{path.relative_to(Path(self.folder).expanduser())}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return f"sha256 {digest.hexdigest()[:16]}"

    @property
    def spec(self) -> dict[str, Any]:
        """What a noisy clip depends on beside the clip: JSON-able, without the folder's place."""
        return {"version": 1, "kind": self.kind, "snr_db": self.snr_db, "sounds": self.identity, "seed": self.seed}

    def added(self, samples: NDArray[np.float32], clip_id: str) -> NDArray[np.float32]:
        """A clip in its noise.

        Args:
            samples: float32 (S,), mono 16 kHz.
            clip_id: what is drawn follows from it and the seed.

        Returns:
            Float32 (S,), quieter as a whole where it would have exceeded 1; unchanged where the clip is silent.

        Raises:
            ConfigError: the folder holds no sound, or one that cannot be read.
        """
        if rms(samples) < QUIET:
            return samples
        rng = np.random.default_rng([self.seed, zlib.crc32(clip_id.encode())])
        count = _VOICES if self.kind == "babble" else 1
        noise = sum((self._drawn(len(samples), rng) for _ in range(count)), np.zeros(len(samples), np.float32))
        noisy = at_snr(samples, noise, self.snr_db)
        return np.asarray(noisy / max(1.0, float(np.abs(noisy).max())), np.float32)

    def _drawn(self, num_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A stretch of a drawn sound in which there is something to hear, of unit power."""
        paths = _paths(self.folder)
        for _ in range(_DRAWS):
            drawn = fitting(_sound(paths[int(rng.integers(len(paths)))]), num_samples, rng)
            if rms(drawn) >= QUIET:
                break
        return drawn / max(rms(drawn), QUIET)


@lru_cache(maxsize=4)
def _paths(folder: str) -> tuple[Path, ...]:
    return tuple(sound_files(folder))


@lru_cache(maxsize=64)
def _sound(path: Path) -> NDArray[np.float32]:
    return read_sound(path)
