"""Noise, rooms, other speakers, pace and masks, drawn anew each time a clip is heard (P1 section 2.4.1).

Shapes: S samples, B clips, F bands, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.fft import next_fast_len
from torch import Tensor
from torchaudio.functional import add_noise, fftconvolve, resample
from torchaudio.transforms import SpecAugment, SpeedPerturbation

from mer_ray.errors import ConfigError
from mer_ray.pretrained.weights import LocalPath
from mer_ray.types import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]
_SOUNDS = ("*.wav", "*.flac")
QUIET = 1e-5
"""Root mean square below which there is nothing to mix."""


class Mixing(BaseModel):
    """How often a clip is mixed with what, how loud; P1's shares and ranges. Folders not given are never drawn from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: LocalPath | None = Field(None, description="folder of environmental sounds, .wav or .flac")
    speakers: LocalPath | None = Field(None, description="folder of background speech; else the other clips of a batch")
    rooms: LocalPath | None = Field(None, description="folder of room impulse responses, for the background speech")
    clean_share: float = Field(2.0, ge=0, description="of clips that stay clean, beside the two shares below")
    noise_share: float = Field(1.0, ge=0, description="of clips in environmental noise")
    speakers_share: float = Field(1.0, ge=0, description="of clips before background speech")
    noise_snr_db: tuple[float, float] = Field((5.0, 12.0), description="range of the environment's SNR")
    speakers_snr_db: tuple[float, float] = Field((10.0, 30.0), description="range of the background speech's SNR")
    num_speakers: tuple[int, int] = Field((1, 4), description="how many speak in the background, at least and at most")
    speeds: tuple[float, ...] = Field((0.9, 1.0, 1.1), min_length=1, description="pace, drawn anew; (1,) leaves it")
    mask_bands: int = Field(0, ge=0, description="widest band of a spectrogram that SpecAugment hides")
    mask_frames: int = Field(0, ge=0, description="longest stretch of it")


@dataclass
class Sounds:
    """What clips are mixed with.

    Attributes:
        noise, speakers, rooms: float32 (S,) each, mono 16 kHz.
    """

    noise: Sequence[Samples] = field(default_factory=tuple)
    speakers: Sequence[Samples] = field(default_factory=tuple)
    rooms: Sequence[Samples] = field(default_factory=tuple)

    @classmethod
    def of(cls, mixing: Mixing) -> Sounds:
        """Those of the folders, read once per process."""
        return cls(*(read_folder(folder) if folder else () for folder in (mixing.noise, mixing.speakers, mixing.rooms)))


@lru_cache(maxsize=8)
def read_folder(folder: str) -> tuple[Samples, ...]:
    """Every sound in a folder, in the order of the names, mono 16 kHz.

    Raises:
        ConfigError: see ``sound_files``.
    """
    return tuple(read_sound(path) for path in sound_files(folder))


def sound_files(folder: str) -> list[Path]:
    """Every sound in a folder, at any depth, in the order of the names.

    Raises:
        ConfigError: there is none.
    """
    paths = sorted(path for pattern in _SOUNDS for path in Path(folder).expanduser().glob(f"**/{pattern}"))
    if not paths:
        raise ConfigError(f"{folder}: no .wav or .flac file in it")
    return paths


def read_sound(path: Path) -> Samples:
    """A file's first to last sample, mono 16 kHz, the mean of its channels.

    Raises:
        ConfigError: it cannot be read.
    """
    import soundfile  # noqa: PLC0415 - for folders alone

    try:
        return _mono(*soundfile.read(path, dtype="float32", always_2d=True))
    except soundfile.SoundFileError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def check_sound(path: Path) -> None:
    """Look at a file's head alone.

    Raises:
        ConfigError: it is no sound that can be read, or one without a sample.
    """
    import soundfile  # noqa: PLC0415 - for folders alone

    try:
        length = soundfile.info(path).frames
    except soundfile.SoundFileError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not length:
        raise ConfigError(f"{path} holds no sound; delete it")


def _mono(samples: NDArray[np.float32], rate: int) -> Samples:
    mono = torch.from_numpy(samples.mean(axis=1))
    return np.asarray(resample(mono, rate, SAMPLE_RATE_HZ).numpy(), np.float32)


def mixed(
    samples: Samples, mixing: Mixing, sounds: Sounds, rng: np.random.Generator, others: Sequence[Samples] = ()
) -> Samples:
    """A clip as it is heard this time: clean, in an environment, or before background speakers.

    Args:
        samples: the clip.
        mixing: the shares and ranges.
        sounds: what is mixed in; a kind without sounds is left out of the draw.
        rng: of everything drawn.
        others: background speech where ``sounds`` has none.

    Returns:
        Float32, as long as the clip by the drawn pace.
    """
    samples = paced(samples, float(rng.choice(mixing.speeds)))
    voices = sounds.speakers or others
    shares = np.array(
        [
            mixing.clean_share,
            mixing.noise_share if len(sounds.noise) else 0.0,
            mixing.speakers_share if len(voices) else 0.0,
        ]
    )
    if not shares.any() or rms(samples) < QUIET:
        return samples
    kind = rng.choice(3, p=shares / shares.sum())
    if kind == 1:
        noise = fitting(sounds.noise[int(rng.integers(len(sounds.noise)))], len(samples), rng)
        return at_snr(samples, noise, rng.uniform(*mixing.noise_snr_db))
    if kind == 2:
        chatter = babble(
            voices, sounds.rooms, len(samples), int(rng.integers(*mixing.num_speakers, endpoint=True)), rng
        )
        return at_snr(samples, chatter, rng.uniform(*mixing.speakers_snr_db))
    return samples


def paced(samples: Samples, speed: float) -> Samples:
    """A clip played so many times as fast, its pitch with it (torchaudio's SpeedPerturbation)."""
    if speed == 1.0 or not len(samples):
        return samples
    made, _ = _perturbation(speed)(torch.from_numpy(samples)[None])
    return np.asarray(made[0].numpy(), np.float32)


@lru_cache(maxsize=16)
def _perturbation(speed: float) -> SpeedPerturbation:
    return SpeedPerturbation(SAMPLE_RATE_HZ, [speed])


def at_snr(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """A clip with noise of the same length so many dB below it; silent noise changes nothing."""
    if rms(noise) < QUIET:
        return samples
    made = add_noise(torch.from_numpy(samples), torch.from_numpy(noise), torch.tensor(float(snr_db)))
    return np.asarray(made.numpy(), np.float32)


def babble(
    voices: Sequence[Samples], rooms: Sequence[Samples], num_samples: int, count: int, rng: np.random.Generator
) -> Samples:
    """``count`` drawn voices at once, equally loud, each heard through a drawn room where there are any."""
    total = np.zeros(num_samples, np.float32)
    for _ in range(count):
        voice = fitting(voices[int(rng.integers(len(voices)))], num_samples, rng)
        if len(rooms):
            voice = reverberant(voice, rooms[int(rng.integers(len(rooms)))])
        total += voice / max(rms(voice), QUIET)
    return total


def reverberant(samples: Samples, room: Samples) -> Samples:
    """A voice in a room, as long as before: convolved with the response from its direct sound on, of unit energy."""
    direct = torch.from_numpy(room[int(np.abs(room).argmax()) :].copy())
    silence = next_fast_len(len(samples) + len(direct) - 1, real=True) - (len(samples) + len(direct) - 1)
    voice = torch.nn.functional.pad(torch.from_numpy(samples), (0, silence))  # an FFT of any other length is slow
    made = fftconvolve(voice, direct / direct.norm().clamp_min(QUIET))[: len(samples)]
    return np.asarray(made.numpy(), np.float32)


def fitting(samples: Samples, num_samples: int, rng: np.random.Generator) -> Samples:
    """A drawn part of a sound, repeated where it is shorter."""
    if not len(samples):
        return np.zeros(num_samples, np.float32)
    start = int(rng.integers(len(samples)))
    return np.asarray(samples[(start + np.arange(num_samples)) % len(samples)], np.float32)


def masked(spectrograms_BFT: Tensor, mixing: Mixing, rng: np.random.Generator) -> Tensor:
    """SpecAugment of each clip: one band and one stretch hidden by their mean; what is drawn follows from ``rng``."""
    if not (mixing.mask_bands or mixing.mask_frames) or not len(spectrograms_BFT):
        return spectrograms_BFT
    hide = SpecAugment(1, mixing.mask_frames, 1, mixing.mask_bands, iid_masks=True, zero_masking=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        made: Tensor = hide(spectrograms_BFT)
    return made


def rms(samples: Samples) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
