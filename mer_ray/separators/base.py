"""What a source separator is: one noisy waveform in, two mono streams out (P1 section 2.4.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mer_ray.pretrained import crossfade, plugin
from mer_ray.pretrained.model import PretrainedConfig
from mer_ray.pretrained.network import NetworkModel
from mer_ray.pretrained.plugin import Plugin
from mer_ray.pretrained.sound import check_finite, resample
from mer_ray.types import SAMPLE_RATE_HZ

if TYPE_CHECKING:  # light separators run without the seconds and the memory that torch takes
    from torch import Tensor, nn

    from mer_ray.pretrained.forward import Item

_MIN_SECONDS = 0.025  # what is shorter is lengthened with silence for the model

Config = plugin.Config
"""Base of every separator's ``Config``."""


class Separator(Plugin, ABC):
    """Splits a waveform into two streams of the same length. Which is the speech is not known to it."""

    def separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Per waveform (S,), 16 kHz float32, its two streams as float32 (2, S); a clip's do not depend on the others.

        Raises:
            ClipError: a waveform holds NaN or infinity, or cannot be separated.
        """
        check_finite(waveforms)
        return self._separate(waveforms)

    @abstractmethod
    def _separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See ``separate``; the waveforms are finite, and may be empty."""


class Enhancer(Separator):
    """Runs a library that cleans sound frame by frame as it comes in, and gives it back late.

    Stream 0 is the voice at the time at which it was spoken, stream 1 what is left; they add up to the input. Each clip
    is cleaned by a library that has heard nothing else. Silence is not shown to it and stays silence.

    Class attributes:
        rate_hz: of the library's sound.
        frame: samples that it takes at a time.
        delay: samples by which what it gives back is late.
    """

    rate_hz: ClassVar[int] = 48_000
    frame: ClassVar[int] = 480
    delay: ClassVar[int]

    def _separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [self._part(waveform) for waveform in waveforms]

    def _part(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.any(waveform):
            return np.zeros((2, len(waveform)), np.float32)
        samples = resample(waveform, SAMPLE_RATE_HZ, self.rate_hz)
        until = len(samples) + self.delay
        frames = np.pad(samples, (0, -until % self.frame + self.delay)).reshape(-1, self.frame)
        late = self._enhance(np.ascontiguousarray(frames, np.float32)).reshape(-1)
        voice = resample(late[self.delay : until], self.rate_hz, SAMPLE_RATE_HZ)[: len(waveform)]
        return np.stack([voice, waveform - voice])

    @abstractmethod
    def _enhance(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """The frames (T, ``frame``) of one clip, at least one, cleaned one after another from a fresh state."""


class WindowedConfig(PretrainedConfig):
    """Base of the ``Config`` of networks that separate window by window."""

    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="bfloat16 is faster on a GPU and adds noise of its own, 50 dB below the voice"
    )
    budget: int = Field(60 * SAMPLE_RATE_HZ, ge=1, description="samples of one forward: windows x longest window")
    window_seconds: float = Field(2.0, gt=0.1, description="a longer clip is separated in windows of this")
    stride_seconds: float = Field(1.5, gt=0, description="from a window to the next; where they overlap they fade")


@dataclass(frozen=True)
class Parted:
    """What one forward makes of its windows, (B, 2, W), where the model runs."""

    streams_BKW: Tensor

    def apart(self) -> list[NDArray[np.float32]]:
        """Float32 (2, W) of each window, on the CPU."""
        return list(self.streams_BKW.float().cpu().numpy())


class WindowedSeparator(NetworkModel, Separator):
    """A network that parts two voices, run on windows of one length: padding would change what it gives by decibels.

    A window is never padded, and only windows of one length share a batch. Each window's streams are put into the order
    of the window before and faded into it. Both streams of a clip are as loud as the clip; silence stays silence.
    """

    exact = True
    config: WindowedConfig

    @property
    def rate_hz(self) -> int:
        """The rate of the network's sound."""
        return SAMPLE_RATE_HZ

    def _separate(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        from mer_ray.pretrained.forward import Item  # noqa: PLC0415

        sounds = {i: self._lengthened(waveform) for i, waveform in enumerate(waveforms) if np.any(waveform)}
        begins = {i: crossfade.starts(len(sound), *self._window) for i, sound in sounds.items()}
        items: list[Item] = []
        for i, sound in sounds.items():
            windows = [sound[begin : begin + self._window[0]] for begin in begins[i]]
            items += [Item(i, len(window), window) for window in windows]
        parts: dict[int, list[NDArray[np.float32]]] = {i: [] for i in sounds}
        made = self.runner.map(items, self._collate, self._forward, exact=self.exact) if items else []
        for item, part in zip(items, made, strict=True):
            parts[item.clip].append(part)
        fade = max(0, self._window[0] - self._window[1])
        whole = {i: crossfade.join(parts[i], begins[i], len(sounds[i]), fade) for i in sounds}
        silent = np.zeros((2, 0), np.float32)
        return [self._as_loud(whole.get(i, silent), waveform) for i, waveform in enumerate(waveforms)]

    @property
    def _window(self) -> tuple[int, int]:
        """Samples of a window, and from a window to the next."""
        window = round(self.config.window_seconds * self.rate_hz)
        return window, min(window, max(1, round(self.config.stride_seconds * self.rate_hz)))

    def _lengthened(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        sound = resample(waveform, SAMPLE_RATE_HZ, self.rate_hz)
        return np.pad(sound, (0, max(0, round(_MIN_SECONDS * self.rate_hz) - len(sound))))

    def _as_loud(self, streams: NDArray[np.float32], waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """The streams at the waveform's rate, length and loudness; a stream without a sound is left without."""
        made = np.zeros((2, len(waveform)), np.float64)
        heard = resample(streams, self.rate_hz, SAMPLE_RATE_HZ)[:, : len(waveform)]
        made[:, : heard.shape[1]] = heard
        peak = np.abs(made).max(axis=1, initial=0.0, keepdims=True)
        made = np.divide(made, peak, out=np.zeros_like(made), where=peak > 0)  # a square of what is tiny would be 0
        power = np.sum(made**2, axis=1, keepdims=True)
        wanted = np.sum(waveform.astype(np.float64) ** 2)
        scaled: NDArray[np.float32] = (made * np.sqrt(wanted / np.where(power > 0, power, 1.0))).astype(np.float32)
        return scaled

    @abstractmethod
    def network(self, model_config: dict[str, Any]) -> nn.Module:
        """The network of its constructor's arguments; float32 (B, W) through it is (B, 2, W)."""

    def _prepare(self, folder: Path) -> None:
        """Nothing stands before the network."""

    def _prepare_randomly(self) -> None:
        """Nothing stands before the network."""

    def _collate(self, payloads: list[Any]) -> dict[str, Any]:
        import torch  # noqa: PLC0415

        return {"samples": torch.from_numpy(np.stack(payloads))}

    def _forward(self, inputs: dict[str, Any]) -> Parted:
        assert self._model is not None
        return Parted(self._model(inputs["samples"]))
