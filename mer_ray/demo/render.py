"""One demo clip as a file: voice, noise, picture and what is broken about it, written as mp4 through PyAV."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly

from mer_ray.demo import faces, voices
from mer_ray.demo.plan import Broken, DemoClip, Noise
from mer_ray.demo.words import EMOTION_WORDS, sentence
from mer_ray.types import SAMPLE_RATE_HZ

FPS = 10
_ROOM_LEVEL = 2e-4
_REST_SPREAD = 0.10

Waveform = NDArray[np.float32]


@lru_cache(maxsize=64)
def person(seed: int, speaker: int) -> tuple[voices.Speaker, faces.Look]:
    """The voice and the looks of one of the demo's people."""
    rng = np.random.default_rng([seed, speaker, *b"person"])
    high = speaker % 2 == 1
    voice = voices.Speaker(
        pitch_hz=float(rng.uniform(185, 215) if high else rng.uniform(100, 125)),
        tract_scale=float(rng.uniform(1.10, 1.20) if high else rng.uniform(0.95, 1.06)),
        rate=float(rng.uniform(0.95, 1.06)),
        breath=float(rng.uniform(0.02, 0.05)),
        tilt_db=float(rng.normal(0, 0.6)),
        liveliness=float(rng.uniform(0.85, 1.2)),
    )
    return voice, faces.random_look(rng, _REST_SPREAD)


def clean_voice(clip: DemoClip) -> Waveform:
    """The clip's voice before any noise: float32 (S,), 16 kHz. What denoising is measured against."""
    return _utterance(clip).waveform


def noisy_voice(clip: DemoClip) -> Waveform:
    """What the clip's microphone heard, before AAC: float32 (S,), 16 kHz."""
    voice = clean_voice(clip)
    rng = clip.rng("noise")
    heard = voice + rng.normal(0, _ROOM_LEVEL, len(voice))
    if clip.noise is not None:
        disturbance = _noise(clip, len(voice), rng)
        power = float(np.mean(voice.astype(np.float64) ** 2)) / float(np.mean(disturbance**2))
        heard = heard + disturbance * np.sqrt(power * 10 ** (-clip.snr_db / 10))
    return (heard * min(1.0, 0.98 / float(np.abs(heard).max()))).astype(np.float32)


def write(clip: DemoClip, path: Path) -> None:
    """Write the clip's file, whole or not at all. The same clip gives the same bytes.

    Raises:
        OSError: the disk refuses.
    """
    beside = path.with_name(f".{path.stem}.{os.getpid()}.part")
    try:
        _write_file(clip, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _write_file(clip: DemoClip, path: Path) -> None:
    broken = clip.broken
    if broken in (Broken.EMPTY_FILE, Broken.NOTHING_LEFT):
        path.write_bytes(b"")
    elif broken is Broken.TEXT_FILE:
        path.write_text("This is not a video.\n" * 20, encoding="utf-8")
    elif broken is Broken.WRONG_EXTENSION:
        soundfile.write(path, noisy_voice(clip), SAMPLE_RATE_HZ, format="WAV")
    elif broken is Broken.ZERO_SECONDS:
        _mux(path, np.zeros((0, faces.SIZE, faces.SIZE, 3), np.uint8), np.zeros(0, np.float32), SAMPLE_RATE_HZ)
    else:
        _mux(path, *_streams(clip), clip.sample_rate_hz)
        if broken is Broken.TRUNCATED:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _streams(clip: DemoClip) -> tuple[NDArray[np.uint8] | None, Waveform | None]:
    """The frames and the voice that the clip's file is to hold; None for a track it lacks."""
    pictures = None if clip.broken is Broken.NO_VIDEO else frames(clip)
    if clip.broken is Broken.NO_AUDIO:
        return pictures, None
    voice = noisy_voice(clip)
    return pictures, np.zeros_like(voice) if clip.broken in (Broken.SILENT, Broken.BLANK_TEXT) else voice


@lru_cache(maxsize=2)
def _utterance(clip: DemoClip) -> voices.Utterance:
    rng = clip.rng("voice")
    speaker, _ = person(clip.seed, clip.speaker)
    prosody = voices.PROSODY[clip.voice.emotion].scaled(clip.voice.intensity, voices.wander(rng))
    return voices.utter(clip.words, speaker, prosody, rng)


def frames(clip: DemoClip) -> NDArray[np.uint8]:
    """The clip's pictures before H.264: uint8 (F, 160, 160, 3), RGB, ``FPS`` a second."""
    cv2.setNumThreads(1)
    rng = clip.rng("face")
    voice = clean_voice(clip)
    num_frames = -(-len(voice) * FPS // SAMPLE_RATE_HZ)
    if clip.broken is Broken.NO_FACE:
        return np.repeat(faces.landscape(rng).clip(0, 255).astype(np.uint8)[None], num_frames, axis=0)
    _, look = person(clip.seed, clip.speaker)
    padded = np.pad(voice, (0, num_frames * SAMPLE_RATE_HZ // FPS - len(voice)))
    loudness = np.sqrt(np.mean(padded.reshape(num_frames, -1).astype(np.float64) ** 2, axis=1))
    loudness /= max(float(loudness.max()), 1e-9)
    track = faces.actions(clip.face.emotion, clip.face.intensity, look, loudness, fps=FPS, rng=rng)
    return faces.render(track, look, rng)


def _noise(clip: DemoClip, num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of the clip's kind, float64 (S,), of any level."""
    time = np.arange(num_samples) / SAMPLE_RATE_HZ
    if clip.noise is Noise.HUM:
        base = 50.0 * (1 + 0.2 * (rng.random() < 0.3))
        tones = [rng.uniform(0.3, 1) / n * np.sin(2 * np.pi * base * n * time + rng.uniform(0, 6)) for n in range(1, 9)]
        return np.asarray(np.sum(tones, axis=0) + 0.05 * rng.normal(0, 1, num_samples), np.float64)
    if clip.noise is Noise.BABBLE:
        return sum((_someone(clip, num_samples, rng) for _ in range(3)), np.zeros(num_samples))
    white = rng.normal(0, 1, num_samples)
    if clip.noise is Noise.WHITE:
        return white
    spectrum = np.fft.rfft(white)
    frequency = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ)
    coloured = np.fft.irfft(spectrum / np.maximum(frequency, 60) ** 0.8, num_samples)
    swell = 1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 6))
    return np.asarray(coloured * swell, np.float64)


def _someone(clip: DemoClip, num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    speaker, _ = person(clip.seed, 100 + int(rng.integers(12)))
    feeling = list(EMOTION_WORDS)[rng.integers(len(EMOTION_WORDS))]
    said = voices.utter(sentence((feeling,), rng), speaker, voices.Prosody(), rng).waveform
    shifted = np.roll(said.astype(np.float64), int(rng.integers(len(said))))
    return np.resize(shifted, num_samples)


def _mux(path: Path, frames: NDArray[np.uint8] | None, voice: Waveform | None, sample_rate_hz: int) -> None:
    """H.264 and AAC in an mp4; a track that is None is left out."""
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        picture = sound = None
        if frames is not None:
            picture = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "24"})
            picture.width, picture.height, picture.pix_fmt = faces.SIZE, faces.SIZE, "yuv420p"
            picture.thread_count = 1
        if voice is not None:
            sound = container.add_stream("aac", rate=sample_rate_hz, layout="mono", options={"aac_coder": "fast"})
            sound.bit_rate = 64_000
        container.start_encoding()
        if frames is not None and picture is not None:
            for frame in frames:
                container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(picture.encode())
        if voice is not None and sound is not None:
            if len(voice):
                container.mux(sound.encode(_audio_frame(voice, sample_rate_hz)))
            container.mux(sound.encode())


def _audio_frame(voice: Waveform, sample_rate_hz: int) -> av.AudioFrame:
    if sample_rate_hz != SAMPLE_RATE_HZ:
        voice = resample_poly(voice, sample_rate_hz // 100, SAMPLE_RATE_HZ // 100).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(voice[None]), format="fltp", layout="mono")
    frame.sample_rate = sample_rate_hz
    return frame
