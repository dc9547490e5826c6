"""Odd media, each with what becomes of it: turned, uneven, of many channels or of strange numbers."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import soundfile
from made_hostile import Case, Good
from media_samples import talking_face, voice

FACES = talking_face((160, 120), 10)
EVENLY = [i / 10 for i in range(10)]
TONE = voice(1.0)


def media(good: Good) -> list[Case]:
    """Every case."""
    return [*films(good), *sounds(good), *headers(), *arrays()]


def films(good: Good) -> Iterator[Case]:
    """Films that are turned, uneven in time, tiny, very wide, or of odd kinds of pixels."""
    for degrees in (90, 180, 270):
        turned = np.rot90(FACES, -degrees // 90, axes=(1, 2))
        yield Case(f"turned_{degrees}.mp4", film(good, "mp4", turned, turn=degrees), "absent", "present")
    uneven = [0, 0.01, 0.02, 0.5, 0.51, 2, 2.001, 2.5, 9, 9.5]
    timed = {
        "uneven.mkv": (uneven, "absent", "present"),
        "uneven.mp4": (uneven, "absent", "present"),
        "all_at_once.mkv": ([i / 1000 for i in range(10)], "absent", "present"),
        "begins_late.mkv": ([1000 + i / 10 for i in range(10)], "absent", "present"),
        "begins_late.mp4": ([1000 + i / 10 for i in range(10)], "absent", "present"),
        "an_hour_between.mkv": ([*range(9), 3600], "too_long", "too_long"),
    }
    for name, (times, audio, faces) in timed.items():
        container = {"mkv": "matroska", "mp4": "mp4"}[name.rpartition(".")[2]]
        yield Case(name, film(good, container, times=times), audio, faces)
    for pixels in ("gray", "gray16le", "yuv444p10le", "yuva420p", "bgra", "rgb48le"):
        yield Case(f"{pixels}.mkv", film(good, codec="ffv1", pixels=pixels), "absent", "present")
    yield Case("pictures.mov", film(good, "mov", codec="png", pixels="rgb24"), "absent", "present")
    sides = {"one_pixel": (1, 1), "very_wide": (2, 16_000), "odd_sides": (121, 161)}
    for name, (height, width) in sides.items():
        images = talking_face((width, height), 3) if min(height, width) > 100 else np.zeros((3, height, width, 3))
        data = film(good, images=images.astype(np.uint8), codec="ffv1")
        yield Case(f"{name}.mkv", data, "absent", "present" if name == "odd_sides" else "absent")
    yield Case("one_frame.mp4", good.clip(frames=FACES[:1]), "present", "present")
    yield Case("frames_of_5_seconds.mp4", good.clip(fps=0.2, sound=False), "absent", "present")
    larger = good.clip(frames=talking_face((320, 240), 10), container="mpegts")
    yield Case("grows.ts", good.ts + larger, "present", "present")
    yield Case("twice.ts", good.ts + good.ts, "present", "present")
    yield Case("cover.mp4", good.clip(frames=FACES[:1], video_codec="mjpeg", cover=True), "present", "absent")


def film(
    good: Good, container="matroska", images=FACES, times=EVENLY, codec="libx264", pixels="yuv420p", turn=0
) -> bytes:
    """A film without sound; ``times`` are the seconds of its frames."""

    def write(out):
        stream = out.add_stream(codec, rate=10)
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = pixels, Fraction(1, 1000)
        if turn:
            stream.set_display_rotation(turn)
        for seconds, image in zip(times, images, strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))

    return good.written(container, write)


def sounds(good: Good) -> Iterator[Case]:
    """Sound of many channels, of strange rates and numbers, or of none."""

    def heard(name, data, becomes="present"):
        return Case(name, data, becomes, "absent", "audio")

    for channels in (2, 3, 6, 8, 16, 24):
        yield heard(f"channels_{channels}.wav", wav(np.repeat(TONE[:, None], channels, axis=1)))
    yield heard("channels_64.wav", wav(np.repeat(TONE[:, None], 64, axis=1)), "unreadable")
    yield heard("surround.flac", wav(np.repeat(TONE[:, None], 6, axis=1), kind="FLAC"))
    for layout, codec in (("5.1", "aac"), ("7.1", "aac"), ("5.1", "ac3")):
        yield heard(f"surround_{layout}_{codec}.mkv", surround(good, layout, codec))
    for numbers in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"):
        yield heard(f"numbers_{numbers}.wav", wav(numbers=numbers))
    for rate in (4000, 8000, 44_100, 384_000):
        yield heard(f"rate_{rate}.wav", wav(voice(1.0, rate=rate), rate))
    for name, value in (("no_number", np.nan), ("infinite", np.inf), ("enormous", 1e30)):
        samples = TONE.copy()
        samples[5000:5010] = value
        yield heard(f"{name}.wav", wav(samples, numbers="FLOAT"), "present" if name == "enormous" else "not_finite")
    yield heard("silence.wav", wav(np.zeros(16_000)), "absent")
    yield heard("a_moment.wav", wav(TONE[:800]), "absent")
    yield heard("header_only.wav", wav(TONE[:0]), "too_short")
    yield heard("more_than_a_minute.wav", wav(np.zeros(16_000 * 61)), "too_long")
    yield heard("odd_byte.wav", wav()[:-1])
    flac, ogg = wav(kind="FLAC"), wav(kind="OGG", numbers="VORBIS")
    yield heard("days.flac", flac[:21] + b"\x0f\xff\xff\xff\xff" + flac[26:], "too_long")
    yield heard("chained.ogg", ogg + wav(rate=8000, kind="OGG", numbers="VORBIS"))
    yield heard("late_page.ogg", ogg[:6] + b"\x7f" * 8 + ogg[14:], "unreadable")
    mp3 = wav(kind="MP3", numbers="MPEG_LAYER_III")
    yield heard("noise_between.mp3", mp3 + b"noise" * 100 + wav(rate=44_100, kind="MP3", numbers="MPEG_LAYER_III"))


def wav(samples=TONE, rate=16_000, numbers="PCM_16", kind="WAV") -> bytes:
    """A file of sound, as libsndfile writes it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=numbers)
    return buffer.getvalue()


def surround(good: Good, layout: str, codec: str) -> bytes:
    """The voice on every channel of ``layout``."""

    def write(out):
        stream = out.add_stream(codec, rate=48_000, layout=layout)
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        resampler = av.AudioResampler(stream.format, layout, 48_000, frame_size=stream.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))

    return good.written("matroska", write)


def headers() -> Iterator[Case]:
    """WAV files of a second at 16 kHz whose header says something else."""
    numbers = (TONE * 32767).astype("<i2").tobytes()
    true = {"format": 1, "channels": 1, "rate": 16_000, "bits": 16, "size": len(numbers)}
    lies = (
        ("size", 0xFFFFFFFF, "present"), ("size", 0, "present"), ("channels", 0, "unreadable"),
        ("channels", 65_535, "unreadable"), ("rate", 0, "unreadable"), ("rate", 1, "too_long"),
        ("rate", 2**32 - 1, "unreadable"), ("rate", 1_730_690_688, "too_fast"),
        ("bits", 0, "unreadable"), ("bits", 65_535, "unreadable"),
        ("format", 0xABCD, "unreadable"),
    )  # fmt: skip
    for name, value, audio in lies:
        told = true | {name: value}
        block = max(1, told["channels"] * told["bits"] // 8) % 2**16
        about = (told["format"], told["channels"], told["rate"], told["rate"] * block % 2**32, block, told["bits"])
        head = b"RIFF" + struct.pack("<I", 36 + len(numbers)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, *about)
        data = head + b"data" + struct.pack("<I", told["size"]) + numbers
        yield Case(f"told_{name}_{value}.wav", data, audio, "absent", "audio")


def arrays() -> Iterator[Case]:
    """Ready face arrays; what NumPy makes of their headers is in ``data/test_arrays``."""

    def saved(array, **options) -> bytes:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.asarray(array), **options)
        return buffer.getvalue()

    faces = np.zeros((2, 8, 8, 3), np.uint8)
    good, archive = saved(faces), io.BytesIO()
    np.savez(archive, faces=faces)
    given = {
        "good": (good, "present"),
        "version_2": (saved(faces, version=(2, 0)), "present"),
        "fortran": (saved(np.asfortranarray(faces)), "present"),
        "floats": (saved(faces.astype(np.float32)), "unreadable"),
        "flat": (saved(faces[0]), "unreadable"),
        "none": (saved(faces[:0]), "too_short"),
        "wide": (saved(np.zeros((1, 2000, 4, 3), np.uint8)), "too_large"),
        "pickled": (saved(np.array([{"a": 1}], dtype=object)), "unreadable"),
        "archive": (archive.getvalue(), "unreadable"),
        "cut_in_its_header": (good[:40], "unreadable"),
        "cut_in_its_numbers": (good[:-1], "unreadable"),
        "longer_than_it_is": (good.replace(b"(2, 8,", b"(99,8,"), "unreadable"),
        "unclosed": (good.replace(b"(2, 8, 8, 3)", b"(((((((((((("), "unreadable"),
        "text": (b"not an array", "unreadable"),
        "empty": (b"", "empty_file"),
    }
    for name, (data, becomes) in given.items():
        yield Case(f"{name}.npy", data, "absent", becomes, "faces")
