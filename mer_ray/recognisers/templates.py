"""Recognises the demo's own small vocabulary: sounds scored frame by frame, words found by Viterbi over a lexicon.

The acoustic model is fitted at ``load`` on voices made for it: people who are not in the demo, every feeling, most of
them noisy (multi-condition training, as P1 section 2.4.1 does for its robust recogniser). Of no use on other speech.

Shapes: S samples, T frames, D features, P sounds, N lexicon states, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from mer_ray.demo.plan import VERSION
from mer_ray.demo.voices import HOP_SECONDS, PROSODY, SILENCE, SOUNDS, Prosody, Speaker, utter, wander
from mer_ray.demo.words import phones, vocabulary
from mer_ray.recognisers import base
from mer_ray.recognisers.base import Transcript
from mer_ray.types import SAMPLE_RATE_HZ

_HOP = 200
_WINDOW = 400
_FFT = 512
_BANDS = 28
_CONTEXT = (-7, -5, -3, -2, -1, 0, 1, 2, 3, 5, 7)
_FLOOR_DB = 55.0
_SILENT_RMS = 2e-4
_STATES_PER_SOUND = 2

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Config(base.Config):
    """Options of the template recogniser."""

    num_templates: int = Field(90, ge=20, description="utterances that the acoustic model is fitted on")
    noisy_share: float = Field(0.6, ge=0, le=1, description="share of them with noise")
    hidden: int = Field(300, ge=1, description="random features of the acoustic model")
    word_penalty: float = Field(4.0, ge=0, description="log cost of each word")
    acoustic_scale: float = Field(0.7, gt=0, description="weight of the sounds against the word cost")
    seed: int = Field(0, ge=0, description="seed of the templates")


class Recogniser(base.Recogniser):
    """Viterbi decoding of any sequence of the demo's words, pauses between them."""

    version: ClassVar[int] = 1
    gated: ClassVar[bool] = False  # it tells noise from its few words by itself

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.options = config
        self._model: _Acoustics | None = None

    @property
    def identity(self) -> str:
        """The acoustic model is made of the demo's voices."""
        return f"voices of demo version {VERSION}"

    def load(self) -> None:
        """Fit the acoustic model, or take the one that this process has fitted."""
        self._model = _fitted(self.options)

    def _transcribe(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        if self._model is None:
            self.load()
        return [self._decode(waveform) for waveform in waveforms]

    def _decode(self, waveform: NDArray[np.float32]) -> Transcript:
        assert self._model is not None
        if len(waveform) < _WINDOW or float(np.sqrt(np.mean(waveform**2))) < _SILENT_RMS:
            return Transcript("", 1.0)
        scores = self._model.scores(_features(waveform)) * self.options.acoustic_scale
        words, score = lexicon().decode(scores, self.options.word_penalty)
        shortfall = (scores.max(axis=1).sum() - score) / len(scores)
        return Transcript(" ".join(words), float(np.exp(-max(shortfall, 0.0))))


@dataclass(frozen=True)
class _Acoustics:
    """Random rectified features of a frame and its neighbours, then linear discriminants (P log-likelihoods)."""

    mean_D: Floats
    scale_D: Floats
    random_DH: Floats
    weights_HP: Floats
    log_prior_P: Floats

    def scores(self, features_TD: Floats) -> Floats:
        """Log-likelihoods of the sounds up to a constant per frame, (T, P)."""
        hidden = _hidden((features_TD - self.mean_D) / self.scale_D, self.random_DH)
        scores: Floats = log_softmax(hidden @ self.weights_HP, axis=1) - self.log_prior_P
        return scores


def _hidden(normed_TD: Floats, random_DH: Floats) -> Floats:
    return np.concatenate([normed_TD, np.maximum(normed_TD @ random_DH, 0), np.ones((len(normed_TD), 1))], axis=1)


@lru_cache(maxsize=4)
def _fitted(config: Config) -> _Acoustics:
    rng = np.random.default_rng(config.seed)
    pairs = [_template(index, config.noisy_share, rng) for index in range(config.num_templates)]
    x_TD = np.concatenate([features for features, _ in pairs])
    sounds_T = np.concatenate([sounds for _, sounds in pairs])
    mean, scale = x_TD.mean(axis=0), x_TD.std(axis=0) + 1e-6
    random = rng.normal(0, 1 / np.sqrt(x_TD.shape[1]), (x_TD.shape[1], config.hidden))
    hidden = _hidden((x_TD - mean) / scale, random)
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.02).fit(hidden[:, :-1], sounds_T)
    weights = np.concatenate([fitted.coef_.T, fitted.intercept_[None]])
    return _Acoustics(mean, scale, random, weights, np.log(np.bincount(sounds_T) / len(sounds_T)))


def _template(index: int, noisy_share: float, rng: np.random.Generator) -> tuple[Floats, Indices]:
    """One utterance's features (T, D) and the sound of each frame (T,)."""
    high = index % 2 == 1
    speaker = Speaker(
        pitch_hz=float(rng.uniform(165, 235) if high else rng.uniform(90, 140)),
        tract_scale=float(rng.uniform(1.08, 1.22) if high else rng.uniform(0.93, 1.08)),
        breath=float(rng.uniform(0.02, 0.06)),
        tilt_db=float(rng.normal(0, 0.8)),
    )
    feeling = list(PROSODY)[index % len(PROSODY)]
    prosody: Prosody = PROSODY[feeling].scaled(float(rng.uniform(0.0, 1.0)), wander(rng))
    words = tuple(rng.choice(vocabulary(), 4))
    said = utter(words, speaker, prosody, rng)
    waveform = said.waveform.astype(np.float64)
    noisy = rng.random() < noisy_share
    waveform += (
        _coloured(len(waveform), rng) * said.waveform.std() * (10 ** (-rng.uniform(2, 18) / 20) if noisy else 2e-3)
    )
    features = _features(waveform.astype(np.float32))
    centres = (np.arange(len(features)) * _HOP + _HOP / 2) / SAMPLE_RATE_HZ / HOP_SECONDS
    places = np.minimum(np.searchsorted(said.ends, centres, side="right"), len(said.phones) - 1)
    order = list(SOUNDS)
    return features, np.array([order.index(said.phones[place]) for place in places])


def _coloured(num_samples: int, rng: np.random.Generator) -> Floats:
    """Noise of unit power and of a random slope between white and brown."""
    spectrum = np.fft.rfft(rng.normal(0, 1, num_samples))
    slope = rng.uniform(0, 1)
    noise = np.fft.irfft(
        spectrum / np.maximum(np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ), 60) ** slope, num_samples
    )
    return np.asarray(noise / noise.std(), np.float64)


@lru_cache(maxsize=1)
def _mel_bank() -> Floats:
    """Triangular mel filters, (F, bands)."""
    top = 2595 * np.log10(1 + 0.5 * SAMPLE_RATE_HZ / 700)
    edges = 700 * (10 ** (np.linspace(60, top, _BANDS + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)[:, None]
    rise = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rise, fall)), np.float64)


def _features(waveform: NDArray[np.float32]) -> Floats:
    """Log-mel energies of each frame and its neighbours, relative to the utterance's loud frames, (T, D)."""
    num_frames = len(waveform) // _HOP
    padded = np.pad(waveform.astype(np.float64), (_WINDOW // 2 - _HOP // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:num_frames]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), _FFT)) ** 2
    mel_db = 10 * np.log10(power @ _mel_bank() + 1e-10)
    relative = np.maximum(mel_db - np.quantile(mel_db.max(axis=1), 0.9), -_FLOOR_DB)
    tone = relative - relative.mean(axis=0)
    both = np.concatenate([relative, tone], axis=1)
    rows = np.clip(np.arange(num_frames)[:, None] + np.array(_CONTEXT), 0, num_frames - 1)
    near = relative[rows].reshape(num_frames, -1)
    return np.concatenate([near, both[:, _BANDS:]], axis=1)


@dataclass(frozen=True)
class Lexicon:
    """All words as chains of states; a pause is a word without letters.

    Attributes:
        words: (W,) names; the last is the pause.
        sound_N: the sound of each state.
        first_W, last_W: each word's first and last state.
    """

    words: tuple[str, ...]
    sound_N: Indices
    first_W: Indices
    last_W: Indices

    def decode(self, scores_TP: Floats, word_penalty: float) -> tuple[list[str], float]:
        """The best sequence of words and its score, by token passing (Young et al. 1989)."""
        penalty_W = np.full(len(self.words), word_penalty)
        penalty_W[-1] = 0.0
        emitted_TN = scores_TP[:, self.sound_N]
        token_N = np.full(len(self.sound_N), -np.inf)
        since_N = np.zeros(len(self.sound_N), np.int64)
        leaving = 0.0
        ended: list[tuple[int, int]] = []
        for t, emitted in enumerate(emitted_TN):
            moved = np.concatenate([[-np.inf], token_N[:-1]])
            moved[self.first_W] = leaving - penalty_W
            came = np.concatenate([[0], since_N[:-1]])
            came[self.first_W] = t
            stays = token_N >= moved
            token_N = np.where(stays, token_N, moved) + emitted
            since_N = np.where(stays, since_N, came)
            best = int(np.argmax(token_N[self.last_W]))
            leaving = float(token_N[self.last_W[best]])
            ended.append((best, int(since_N[self.last_W[best]])))
        return self._trace(ended), leaving

    def _trace(self, ended: list[tuple[int, int]]) -> list[str]:
        """The words on the way back from the end; each knows the frame that it began in."""
        said: list[str] = []
        t = len(ended) - 1
        while t >= 0:
            word, began = ended[t]
            said.append(self.words[word])
            t = began - 1
        return [word for word in reversed(said) if word]


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The demo's vocabulary and the pause."""
    words = (*vocabulary(), "")
    chains = [phones(word) if word else (SILENCE,) for word in words]
    order = list(SOUNDS)
    states = [[order.index(sound) for sound in chain for _ in range(_STATES_PER_SOUND)] for chain in chains]
    lengths = np.array([len(chain) for chain in states])
    last = np.cumsum(lengths) - 1
    return Lexicon(words, np.concatenate(states), last - lengths + 1, last)
