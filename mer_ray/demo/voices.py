"""The demo's voices: glottal pulses and noise, shaped by formants that move from sound to sound.

Source and filter are put together in the short-time Fourier domain (overlap-add), so that a whole utterance is a few
array operations. Formant targets are the common textbook ones (Peterson and Barney 1952), pulses are Rosenberg's
(1971). Control tracks have one value per ``HOP_SECONDS``.

Shapes: K control frames, S samples, F frequency bins.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from mer_ray.demo.words import VOWELS, phones
from mer_ray.types import SAMPLE_RATE_HZ

HOP_SECONDS = 0.005
_HOP = int(HOP_SECONDS * SAMPLE_RATE_HZ)
_WINDOW = 4 * _HOP
_FFT = 512
SILENCE = "sil"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sound:
    """One phone: formants (Hz), amplitudes of voice, breath and friction, friction's band (Hz), length (s)."""

    formants: tuple[float, float, float]
    voiced: float
    breathed: float = 0.0
    friction: float = 0.0
    centre_hz: float = 4000.0
    width_hz: float = 1500.0
    seconds: float = 0.075


SOUNDS: dict[str, Sound] = {
    SILENCE: Sound((500, 1500, 2500), 0.0),
    "a": Sound((740, 1180, 2440), 1.0, seconds=0.105),
    "e": Sound((520, 1800, 2480), 1.0, seconds=0.095),
    "i": Sound((280, 2260, 2950), 0.9, seconds=0.09),
    "o": Sound((480, 860, 2400), 1.0, seconds=0.1),
    "u": Sound((310, 720, 2200), 0.9, seconds=0.09),
    "l": Sound((360, 1250, 2900), 0.5, seconds=0.07),
    "r": Sound((420, 1250, 1650), 0.5, seconds=0.07),
    "w": Sound((290, 620, 2100), 0.45, seconds=0.07),
    "m": Sound((240, 950, 2050), 0.4, seconds=0.075),
    "n": Sound((250, 1550, 2600), 0.4, seconds=0.075),
    "v": Sound((260, 1100, 2300), 0.3, 0.0, 0.10, 3500, 3500, 0.07),
    "z": Sound((260, 1600, 2500), 0.3, 0.0, 0.25, 5600, 1200, 0.08),
    "s": Sound((320, 1600, 2500), 0.0, 0.0, 0.5, 5800, 1200, 0.1),
    "sh": Sound((320, 1800, 2500), 0.0, 0.0, 0.6, 3000, 800, 0.1),
    "f": Sound((320, 1100, 2300), 0.0, 0.0, 0.16, 3800, 3500, 0.095),
    "h": Sound((550, 1500, 2500), 0.0, 0.7, 0.0, seconds=0.07),
    "p": Sound((400, 800, 2200), 0.0, 0.0, 0.45, 900, 500, 0.085),
    "t": Sound((400, 1750, 2600), 0.0, 0.0, 0.55, 4600, 1500, 0.085),
    "k": Sound((400, 1900, 2300), 0.0, 0.0, 0.55, 2000, 500, 0.085),
    "b": Sound((280, 800, 2200), 0.3, 0.0, 0.22, 900, 500, 0.075),
    "d": Sound((280, 1750, 2600), 0.3, 0.0, 0.25, 4600, 1500, 0.075),
    "g": Sound((280, 1900, 2300), 0.3, 0.0, 0.25, 2000, 500, 0.075),
}
_STOPS = frozenset("ptkbdg")
_BURST_SECONDS = 0.025


@dataclass(frozen=True)
class Speaker:
    """A voice: mean pitch (Hz), length of the vocal tract (1 = a man's), habits of speed, breath and brilliance."""

    pitch_hz: float
    tract_scale: float
    rate: float = 1.0
    breath: float = 0.04
    tilt_db: float = 0.0
    liveliness: float = 1.0


@dataclass(frozen=True)
class Prosody:
    """How something is said, as changes from the speaker's rest.

    Pitch and its spread and final rise in semitones, tempo as a factor's logarithm, loudness in dB, spectral tilt in dB
    per octave above 500 Hz, jitter and tremor as fractions of the pitch, breath as an amplitude.
    """

    pitch: float = 0.0
    spread: float = 0.0
    rise: float = 0.0
    tempo: float = 0.0
    loudness_db: float = 0.0
    tilt_db: float = 0.0
    jitter: float = 0.0
    tremor: float = 0.0
    breath: float = 0.0

    def scaled(self, intensity: float, noise: Prosody | None = None) -> Prosody:
        """This prosody at ``intensity`` (0 is the speaker's rest), plus ``noise``."""
        other = noise or Prosody()
        return Prosody(**{f.name: intensity * getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


PROSODY: dict[str, Prosody] = {
    "neutral": Prosody(),
    "anger": Prosody(3.5, 1.5, -3.0, 0.18, 6.0, 4.0, 0.016, 0.0, 0.0),
    "happiness": Prosody(5.0, 3.2, 2.0, 0.10, 3.0, 1.0, 0.002, 0.0, 0.0),
    "sadness": Prosody(-3.0, -1.6, -2.0, -0.26, -6.0, -4.0, 0.006, 0.0, 0.10),
    "worry": Prosody(2.5, -0.8, 1.0, 0.12, -4.0, -2.0, 0.024, 0.05, 0.08),
    "surprise": Prosody(7.5, 2.0, 7.0, -0.12, 2.0, 0.5, 0.003, 0.0, 0.03),
}
"""Each emotion's prosody at full intensity (after the review of Scherer 2003)."""

_SPREAD_OF_NOISE = Prosody(0.6, 0.25, 0.6, 0.03, 1.2, 0.5, 0.002, 0.003, 0.008)


def wander(rng: np.random.Generator, amount: float = 1.0) -> Prosody:
    """Random prosody that means nothing: what differs between two sayings of the same feeling."""
    return Prosody(**{f.name: amount * getattr(_SPREAD_OF_NOISE, f.name) * rng.normal() for f in fields(Prosody)})


@dataclass(frozen=True)
class Utterance:
    """A voice and what it says when.

    Attributes:
        waveform: float32 (S,), 16 kHz, speech level about 0.1 RMS before loudness.
        phones: the sounds said, silences among them.
        ends: int (len(phones),), the control frame after each sound's last.
    """

    waveform: NDArray[np.float32]
    phones: tuple[str, ...]
    ends: NDArray[np.int64]


def utter(words: tuple[str, ...], speaker: Speaker, prosody: Prosody, rng: np.random.Generator) -> Utterance:
    """Say ``words``; the same arguments and generator state give the same samples."""
    said, ends = _timing(words, speaker, prosody, rng)
    num_frames = int(ends[-1])
    which = np.searchsorted(ends, np.arange(num_frames), side="right")
    tracks = _tracks(said, ends, which, speaker, rng)
    pitch_hz = _pitch(said, which, speaker, prosody, rng)
    waveform = _shape(tracks, pitch_hz, speaker, prosody, rng)
    level = 0.08 * 10 ** (prosody.loudness_db / 20)
    waveform *= level / max(float(np.sqrt(np.mean(waveform**2))), 1e-9)
    return Utterance(np.clip(waveform, -1, 1).astype(np.float32), said, ends)


@dataclass(frozen=True)
class _Tracks:
    """Control tracks: formants (K, 3) in Hz; voice, breath, friction, its centre and width, each (K,)."""

    formants: Floats
    voice: Floats
    breath: Floats
    friction: Floats
    centre: Floats
    width: Floats


def _timing(
    words: tuple[str, ...], speaker: Speaker, prosody: Prosody, rng: np.random.Generator
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    said, seconds = [SILENCE], [rng.uniform(0.12, 0.25)]
    rate = speaker.rate * float(np.exp(np.clip(prosody.tempo, -0.4, 0.4)))
    for word in words:
        for phone in phones(word):
            said.append(phone)
            seconds.append(SOUNDS[phone].seconds * rng.uniform(0.85, 1.15) / rate)
        if rng.random() < 0.25:
            said.append(SILENCE)
            seconds.append(rng.uniform(0.03, 0.08) / rate)
    said.append(SILENCE)
    seconds.append(rng.uniform(0.12, 0.25))
    frames = np.maximum(np.rint(np.array(seconds) / HOP_SECONDS).astype(np.int64), 5)
    return tuple(said), np.cumsum(frames)


def _tracks(
    said: tuple[str, ...], ends: NDArray[np.int64], which: NDArray[np.int64], speaker: Speaker, rng: np.random.Generator
) -> _Tracks:
    sounds = [SOUNDS[phone] for phone in said]
    spread = rng.normal(1.0, 0.03, (len(sounds), 3))
    formants = (np.array([sound.formants for sound in sounds]) * spread * speaker.tract_scale)[which]
    voice, breath, friction, centre, width = (
        np.array([getattr(sound, name) for sound in sounds])[which]
        for name in ("voiced", "breathed", "friction", "centre_hz", "width_hz")
    )
    left = ends[which] - np.arange(len(which))
    closed = np.array([phone in _STOPS for phone in said])[which] & (left > _BURST_SECONDS / HOP_SECONDS)
    friction = np.where(closed, 0.0, friction)
    return _Tracks(
        np.stack([_smooth(formants[:, i], 9) for i in range(3)], axis=1),
        _smooth(voice, 5),
        _smooth(breath, 5),
        _smooth(friction, 3),
        centre * np.sqrt(speaker.tract_scale),
        width,
    )


def _pitch(
    said: tuple[str, ...], which: NDArray[np.int64], speaker: Speaker, prosody: Prosody, rng: np.random.Generator
) -> Floats:
    """The pitch contour (K,) in Hz: declination, an accent on some vowels, a final rise or fall, tremor."""
    num_frames = len(which)
    place = np.linspace(0, 1, num_frames)
    vowel = np.array([phone in VOWELS for phone in said])
    accents = np.where(vowel & (rng.random(len(said)) < 0.45), rng.uniform(0.5, 1.5, len(said)), 0.0)
    swing = max(1.6 * speaker.liveliness + prosody.spread, 0.2)
    semitones = prosody.pitch - 1.5 * place + swing * _smooth(accents[which], 25)
    semitones += prosody.rise * np.clip((place - 0.7) / 0.3, 0, 1)
    tremor = abs(prosody.tremor) * np.sin(2 * np.pi * 5.5 * np.arange(num_frames) * HOP_SECONDS + rng.uniform(0, 6))
    hertz: Floats = speaker.pitch_hz * 2 ** (semitones / 12) * (1 + tremor)
    return np.clip(hertz, 60, 500)


def _shape(tracks: _Tracks, pitch_hz: Floats, speaker: Speaker, prosody: Prosody, rng: np.random.Generator) -> Floats:
    """Source through filter: float64 (S,)."""
    num_samples = len(pitch_hz) * _HOP
    pulses = _pulses(np.repeat(pitch_hz, _HOP), abs(prosody.jitter) + 0.004, rng)
    noise = rng.normal(0, 1, num_samples)
    breathy = float(np.clip(speaker.breath + prosody.breath, 0.01, 0.3))
    voice = np.repeat(tracks.voice, _HOP)
    excitation = pulses * voice + noise * (breathy * voice + 0.25 * np.repeat(tracks.breath, _HOP))
    rubbing = noise * np.repeat(tracks.friction, _HOP) * 0.25

    frequency = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ).astype(np.float64)
    octaves = np.log2(np.maximum(frequency, 500) / 500)
    tilt = 10 ** ((speaker.tilt_db + prosody.tilt_db) * octaves / 20)
    vocal_KF = _formant_response(tracks.formants, speaker.tract_scale, frequency) * tilt
    friction_KF = np.exp(-(((frequency - tracks.centre[:, None]) / tracks.width[:, None]) ** 2))
    spectrum = np.fft.rfft(_frames(excitation), _FFT) * vocal_KF + np.fft.rfft(_frames(rubbing), _FFT) * friction_KF
    return _overlap_add(np.fft.irfft(spectrum, _FFT), num_samples)


def _pulses(pitch_hz: Floats, jitter: float, rng: np.random.Generator) -> Floats:
    """Derivative of Rosenberg's glottal flow, (S,), its periods disturbed by ``jitter``."""
    phase = np.cumsum(pitch_hz / SAMPLE_RATE_HZ)
    num_periods = int(phase[-1]) + 2
    period = phase.astype(np.int64)
    place = phase + np.cumsum(rng.normal(0, jitter, num_periods))[period]
    shimmer = rng.normal(1, 4 * jitter, num_periods)[period]
    t = place % 1.0
    opening, closing = 0.4, 0.16
    flow = np.where(
        t < opening,
        0.5 * (1 - np.cos(np.pi * t / opening)),
        np.where(t < opening + closing, np.cos(0.5 * np.pi * (t - opening) / closing), 0.0),
    )
    derivative: Floats = lfilter([1, -1], [1], flow * shimmer)
    return derivative * 4


def _formant_response(formants_K3: Floats, scale: float, frequency: Floats) -> NDArray[np.complex64]:
    """Cascade of resonators, complex (K, F); a fourth and fifth formant stand still."""
    response = np.ones((len(formants_K3), len(frequency)), np.complex64)
    still = np.broadcast_to(np.array([3500.0, 4600.0]) * scale, (len(formants_K3), 2))
    for centre in np.concatenate([formants_K3, still], axis=1).T:
        width = 60 + 0.05 * centre
        ratio = (frequency[None, :] / centre[:, None]).astype(np.float32)
        response /= 1 - ratio**2 + 1j * ratio * (width / centre).astype(np.float32)[:, None]
    return response


def _frames(signal: Floats) -> Floats:
    padded = np.pad(signal, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(signal) // _HOP]
    return frames * np.hanning(_WINDOW + 1)[:-1]


def _overlap_add(frames: Floats, num_samples: int) -> Floats:
    steps = -(-_FFT // _HOP)
    pieces = np.pad(frames, ((0, 0), (0, steps * _HOP - _FFT))).reshape(len(frames), steps, _HOP)
    total = np.zeros((len(frames) + steps, _HOP))
    for step in range(steps):
        total[step : step + len(frames)] += pieces[:, step]
    return total.reshape(-1)[_WINDOW // 2 : _WINDOW // 2 + num_samples] / 2


def _smooth(track: Floats, width: int) -> Floats:
    window = np.hanning(width + 2)[1:-1]
    padded = np.pad(track, width // 2, mode="edge")
    return np.convolve(padded, window / window.sum(), mode="valid")
