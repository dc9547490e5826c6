"""Real media files for tests, written with PyAV. Loaded by path: ``runpy.run_path`` (the tests are no package)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray


def voice(seconds: float, seed: int = 0, rate: int = 16_000) -> NDArray[np.float32]:
    """A gliding harmonic tone in bursts with some noise: mono float32, peak about 0.5."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 1.3 * t + seed)) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    loud = 0.2 * tone * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * t))
    return np.clip(loud + 0.003 * rng.standard_normal(len(t)), -1, 1).astype(np.float32)


def drawing(size: tuple[int, int], seed: int, count: int) -> NDArray[np.uint8]:
    """``count`` frames of a disc that moves over a gradient, RGB uint8 (count, height, width, 3); size is (w, h)."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 30 * (seed % 8))], axis=-1)
    frames = np.repeat(base[None], count, axis=0).astype(np.uint8)
    for i, frame in enumerate(frames):
        inside = (x - width * (0.3 + 0.4 * i / max(count, 1))) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2
        frame[inside] = (220, 180, 60)
    return frames


def write_media(
    path: Path,
    audio: NDArray[np.float32] | None = None,
    frames: NDArray[np.uint8] | None = None,
    *,
    rate: int = 16_000,
    fps: float = 25,
    audio_codec: str = "aac",
    video_codec: str = "libx264",
    container: str = "mp4",
    options: dict[str, str] | None = None,
    cover: bool = False,
) -> Path:
    """A media file of the given mono waveform and RGB frames; ``cover`` marks the frames as an attached picture."""
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        video = out.add_stream(video_codec, rate=Fraction(fps).limit_denominator(1000)) if frames is not None else None
        if video is not None:
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
            if cover:
                video.disposition = av.stream.Disposition.attached_pic
        sound = out.add_stream(audio_codec, rate=rate, layout="mono") if audio is not None else None
        if sound is not None and audio_codec == "wmav2":
            sound.bit_rate = 64_000  # it has no rate of its own
        for image in frames if frames is not None else []:
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        if video is not None:
            out.mux(video.encode(None))
        if sound is not None:
            _mux_audio(out, sound, audio, rate)
    return path


def _mux_audio(out: av.container.OutputContainer, sound: av.AudioStream, audio: NDArray[np.float32], rate: int) -> None:
    frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(sound.format, "mono", rate, frame_size=sound.codec_context.frame_size or 1024)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(sound.encode(part))
    out.mux(sound.encode(None))


def streams(path: Path) -> tuple[int, int, float]:
    """Decoded frames, audio samples and their peak."""
    with av.open(str(path)) as container:
        kinds = {stream.type for stream in container.streams}
        frames = sum(1 for _ in container.decode(video=0)) if "video" in kinds else 0
    with av.open(str(path)) as container:
        sounds = [frame.to_ndarray() for frame in container.decode(audio=0)] if "audio" in kinds else []
    return frames, sum(sound.size for sound in sounds), max((float(np.abs(sound).max()) for sound in sounds), default=0)


def talking_face(size: tuple[int, int], count: int, mouth: float = 0.5, centre: float = 0.5) -> NDArray[np.uint8]:
    """``count`` frames of a drawn face that opens and shuts its mouth, RGB uint8 (count, height, width, 3)."""
    width, height = size
    frames = np.full((count, height, width, 3), (92, 128, 150), np.uint8)
    for i, frame in enumerate(frames):
        _draw_face(frame, round(width * centre), height // 2, height * 0.33, mouth * abs(np.sin(i * 0.9)))
    return frames


def _draw_face(frame: NDArray[np.uint8], x: int, y: int, r: float, mouth: float) -> None:
    def oval(dx: float, dy: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        place, axes = (round(x + dx * r), round(y + dy * r)), (max(1, round(rx * r)), max(1, round(ry * r)))
        cv2.ellipse(frame, place, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    oval(0, -0.1, 0.85, 1.15, (60, 40, 30))
    oval(0, 0.05, 0.75, 1.0, (226, 182, 150))
    for side in (-0.32, 0.32):
        oval(side, -0.12, 0.22, 0.13, (170, 125, 105))
        oval(side, -0.12, 0.15, 0.08, (245, 245, 245))
        oval(side, -0.12, 0.07, 0.08, (40, 30, 30))
        oval(side, -0.34, 0.22, 0.05, (60, 40, 30))
    oval(0, 0.15, 0.09, 0.2, (205, 155, 125))
    oval(0, 0.3, 0.14, 0.06, (175, 120, 100))
    oval(0, 0.58, 0.28, 0.06 + 0.2 * mouth, (150, 50, 60))
