"""Real voices in real noise: recordings read from the user's archives, mixed at a known ratio, in rooms.

Shapes: S samples.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional as sound
from numpy.typing import NDArray

from mer_ray.errors import ConfigError
from mer_ray.pretrained.sound import resample
from mer_ray.types import SAMPLE_RATE_HZ

VOICES = "nemo_wav16k.tar"
SURROUNDINGS = "noise_rir_16k.tar"
_ROOM_SECONDS = 1.0
_AUDIBLE = 1e-3

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class NoisyVoice:
    """A voice with noise and without, float32 (S,) each; in a room both have its echo."""

    noisy: Waveform
    clean: Waveform


@dataclass(frozen=True)
class Recordings:
    """What is mixed: voices, noises, and responses of rooms, float32 (S,), 16 kHz."""

    voices: Sequence[Waveform]
    noises: Sequence[Waveform]
    rooms: Sequence[Waveform]


def read(data: str, num_voices: int, seed: int) -> Recordings:
    """Voices drawn from nEMO, and all noises of ESC-10 and all rooms.

    Raises:
        ConfigError: an archive is missing, damaged, or holds too little.
    """
    drawn = _wavs(Path(data) / VOICES, lambda name: True, num_voices, np.random.default_rng(seed))
    noises = _wavs(Path(data) / SURROUNDINGS, lambda name: "/noise/esc10_" in f"/{name}")
    rooms = _wavs(Path(data) / SURROUNDINGS, lambda name: "/rir/" in f"/{name}")
    return Recordings(drawn, noises, rooms)


def mix(recordings: Recordings, snr_db: float, seed: int, in_room: bool = False) -> list[NoisyVoice]:
    """Every voice in a noise that is drawn for it, and in a drawn room if wanted.

    Args:
        recordings: see ``read``.
        snr_db: power of the voice over that of the noise.
        seed: of what is drawn; the same draws at every ratio.
        in_room: the voice is heard with a room's echo.
    """
    rng = np.random.default_rng([seed, 1])
    mixed = []
    for voice in recordings.voices:
        noise = _stretch(recordings.noises[int(rng.integers(len(recordings.noises)))], len(voice), rng)
        room = recordings.rooms[int(rng.integers(len(recordings.rooms)))]
        clean = torch.from_numpy(reverberate(voice, room) if in_room else voice)
        noisy = sound.add_noise(clean, torch.from_numpy(noise), torch.tensor(float(snr_db)))
        mixed.append(NoisyVoice(noisy.numpy(), clean.numpy()))
    return mixed


def reverberate(voice: Waveform, room: Waveform) -> Waveform:
    """A voice as it is heard in a room: as loud, as long, and on time with the direct sound."""
    direct = int(np.abs(room).argmax())
    response = room[direct : direct + int(_ROOM_SECONDS * SAMPLE_RATE_HZ)]
    heard: Waveform = sound.fftconvolve(torch.from_numpy(voice), torch.from_numpy(response)).numpy()[: len(voice)]
    return heard * np.float32(np.sqrt(np.mean(voice**2) / np.mean(heard**2)))


def _stretch(noise: Waveform, num_samples: int, rng: np.random.Generator) -> Waveform:
    """A stretch of a noise that is repeated as need be, from a place where it is not silent all along."""
    repeated = np.tile(noise, 2 + num_samples // len(noise))
    audible = np.flatnonzero(np.abs(noise) > _AUDIBLE * np.abs(noise).max())
    start = int(rng.choice(audible))
    return repeated[start : start + num_samples]


def _wavs(
    archive: Path, wanted: Callable[[str], bool], most: int | None = None, rng: np.random.Generator | None = None
) -> list[Waveform]:
    """Mono waveforms of an archive's files, in the order of their names; ``most`` of them are drawn."""
    try:
        with tarfile.open(archive) as opened:
            names = sorted(name for name in opened.getnames() if name.endswith(".wav") and wanted(name))
            if rng is not None and most is not None and most <= len(names):
                names = [names[index] for index in np.sort(rng.choice(len(names), most, replace=False))]
            made = [_wav(opened, name) for name in names]
    except (OSError, tarfile.TarError, soundfile.SoundFileError) as error:
        raise ConfigError(f"data: {archive} cannot be read: {error}; see docs/benchmarks.md") from error
    if len(made) < (most or 1):
        raise ConfigError(f"data: {archive} holds {len(made)} of the {most or 1} recordings that are asked for")
    return made


def _wav(opened: tarfile.TarFile, name: str) -> Waveform:
    member = opened.extractfile(name)
    assert member is not None
    samples, rate = soundfile.read(io.BytesIO(member.read()), dtype="float32", always_2d=True)
    return resample(np.ascontiguousarray(samples[:, 0]), rate, SAMPLE_RATE_HZ)
