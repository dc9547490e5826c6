"""Sentences of a closed vocabulary said by espeak-ng, and noise to say them in.

Shapes: S samples.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torchaudio.functional import resample

from mer_ray.errors import ConfigError, InputError
from mer_ray.speech.augment import Sounds, at_snr, babble, fitting
from mer_ray.types import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]
SLOTS = (
    ("take", "bring", "find", "move", "hold", "drop", "keep", "leave"),
    ("the", "that", "your", "my"),
    ("red", "blue", "old", "cold", "new", "long", "small", "black"),
    ("book", "cup", "box", "ball", "bell", "lamp", "map", "bag"),
    ("here", "there", "now", "later", "today", "down", "away", "home"),
)
"""A sentence takes a word of each."""
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland")
_VOICES = ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "f4", "f5")
_NEW = ("m4", "f3")
_CHATTER = (
    "the weather was fine so we walked along the river until evening",
    "nobody knows why the train stops between these two stations",
    "she asked whether the kitchen would be painted before summer",
    "in winter the lake freezes and children skate across to school",
    "he reads four newspapers and believes none of them",
    "please remember to water the plants while we are travelling",
)
_NOISE_TAR = "noise_rir_16k.tar"
_TEST_FOLD = "_5-"


@dataclass(frozen=True)
class Spoken:
    """A sentence that was said.

    Attributes:
        text: its words.
        samples: float32 (S,), mono 16 kHz.
    """

    text: str
    samples: Samples


def sentences(count: int, rng: np.random.Generator) -> list[str]:
    """Drawn sentences."""
    return [" ".join(rng.choice(slot) for slot in SLOTS) for _ in range(count)]


def vocabulary() -> list[str]:
    """All words there are."""
    return sorted({word for slot in SLOTS for word in slot})


def voices(new: bool) -> list[str]:
    """Voices to train with, or new ones to test with."""
    return [f"{accent}+{voice}" for accent in _ACCENTS for voice in _VOICES if (voice in _NEW) == new]


def say(texts: Sequence[str], voice_names: Sequence[str], rng: np.random.Generator) -> list[Spoken]:
    """Each text said by a drawn voice at a drawn pace and pitch.

    Raises:
        InputError: espeak-ng is not installed, or cannot speak.
    """
    drawn = [(rng.choice(voice_names), int(rng.integers(140, 220)), int(rng.integers(30, 75))) for _ in texts]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(_say, texts, drawn))
    return [Spoken(text, samples) for text, samples in zip(texts, said, strict=True)]


def _say(text: str, drawn: tuple[str, int, int]) -> Samples:
    voice, pace, pitch = drawn
    command = ["espeak-ng", "-v", voice, "-s", str(pace), "-p", str(pitch), "--stdout", text]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    except FileNotFoundError as error:
        raise InputError("espeak-ng is not installed; on Debian: apt-get install espeak-ng") from error
    except (subprocess.SubprocessError, soundfile.SoundFileError) as error:
        raise InputError(f"espeak-ng said nothing for voice {voice}: {error}") from error
    return np.asarray(resample(torch.from_numpy(samples), rate, SAMPLE_RATE_HZ).numpy(), np.float32)


def surroundings(data: str, rng: np.random.Generator) -> tuple[Sounds, Sounds]:
    """Noise, rooms and chatter to train in, and those to test in: other recordings, rooms and voices.

    Raises:
        ConfigError: the folder lacks ``noise_rir_16k.tar``.
        InputError: see ``say``.
    """
    noise, rooms = _read(Path(data) / _NOISE_TAR)
    test = [name for name in sorted(noise) if _TEST_FOLD in name]
    sounds = []
    for new in (False, True):
        chatter = say(_CHATTER[int(new) :: 2] * 3, voices(new), rng)
        sounds.append(
            Sounds(
                noise=[noise[name] for name in sorted(noise) if (name in test) == new],
                speakers=[one.samples for one in chatter],
                rooms=[rooms[name] for name in sorted(rooms)[int(new) :: 2]],
            )
        )
    return sounds[0], sounds[1]


def noises(data: str) -> dict[str, Samples]:
    """All recordings of noise, by their names.

    Raises:
        ConfigError: the folder lacks ``noise_rir_16k.tar``.
    """
    return dict(sorted(_read(Path(data) / _NOISE_TAR)[0].items()))


def _read(tar: Path) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Noises and rooms by their names."""
    if not tar.is_file():
        raise ConfigError(f"data={tar.parent}: there is no {tar.name} in it; see docs/benchmarks.md")
    found: dict[str, dict[str, Samples]] = {"noise": {}, "rir": {}}
    with tarfile.open(tar) as opened:
        for member in opened.getmembers():
            kind, file = Path(member.name).parent.name, opened.extractfile(member) if member.isfile() else None
            if file and kind in found and member.name.endswith(".wav"):
                samples, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32", always_2d=True)
                mono = resample(torch.from_numpy(samples.mean(axis=1)), rate, SAMPLE_RATE_HZ)
                found[kind][Path(member.name).stem] = mono.numpy()
    return found["noise"], found["rir"]


def conditions(clips: Iterable[Spoken], sounds: Sounds, rng: np.random.Generator) -> dict[str, list[Samples]]:
    """The clips as they are heard: clean, in an environment at 5 dB, and before four speakers in rooms at 10 dB."""
    heard: dict[str, list[Samples]] = {"clean": [], "environment_5db": [], "babble_10db": []}
    for clip in clips:
        length = len(clip.samples)
        noise = fitting(sounds.noise[int(rng.integers(len(sounds.noise)))], length, rng)
        heard["clean"].append(clip.samples)
        heard["environment_5db"].append(at_snr(clip.samples, noise, 5.0))
        heard["babble_10db"].append(at_snr(clip.samples, babble(sounds.speakers, sounds.rooms, length, 4, rng), 10.0))
    return heard
