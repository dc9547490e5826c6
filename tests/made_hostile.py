"""Hostile media, each with what becomes of it: cut short, lying, pointing elsewhere, oddly named. See ``made_odd`` too.

``Case.audio`` and ``Case.faces`` are what the tables of these names say of a clip that is this file: ``present``,
``absent`` or an ``errors.Reason``; several with ``|`` between them where it is FFmpeg's to say how far it gets.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from media_samples import talking_face, voice, write_media

FORBIDDEN = ("forbidden_format", "forbidden_format")
_NESTED = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"dinf", b"stbl")
_ELSEWHERE = "http://127.0.0.1:9/a.ts"


@dataclass(frozen=True)
class Case:
    """A file, and what becomes of a clip whose ``column`` names it."""

    name: str
    data: bytes
    audio: str
    faces: str
    column: str = "video"


class Good:
    """A clip of a second, with a face and a voice, in several containers: what hostile ones are made from."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / "made"
        self.mp4 = self.clip(options={"movflags": "faststart"})
        self.mkv = self.clip(container="matroska")
        self.avi = self.clip(container="avi", audio_codec="mp3", video_codec="mpeg4")
        self.ts = self.clip(container="mpegts")

    def clip(self, sound=True, frames=None, **options) -> bytes:
        """The bytes of a clip made as ``media_samples.write_media`` does."""
        frames = talking_face((160, 120), 10) if frames is None else frames
        write_media(self._place, voice(1.0) if sound else None, frames, **{"fps": 10, **options})
        return self._taken()

    def written(self, container, write) -> bytes:
        """The bytes of what ``write`` puts into an open container."""
        with av.open(str(self._place), "w", format=container) as out:
            write(out)
        return self._taken()

    def _taken(self) -> bytes:
        data = self._place.read_bytes()
        self._place.unlink()
        return data


def media(good: Good, secret: Path) -> list[Case]:
    """Every case; those that point elsewhere name ``secret``, a transport stream."""
    return [*cut(good), *lying(good), *pointing(good, secret), *named(good)]


def atoms(data: bytes, start: int = 0, stop: int | None = None, path: str = "") -> Iterator[tuple[str, int, int]]:
    """Every atom of an MP4 file, at any depth: its path, start and size."""
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        name = f"{path}.{kind.decode('latin-1')}".lstrip(".")
        yield name, start, size
        if kind in _NESTED:
            yield from atoms(data, start + 8, start + size, name)
        start += size


def found(data: bytes, kind: str, which: int = 0) -> tuple[int, int]:
    """Start and size of an atom; the film's come before the sound's."""
    return [(start, size) for path, start, size in atoms(data) if path.endswith(kind)][which]


def cut(good: Good) -> Iterator[Case]:
    """Cut at every atom of a file whose index comes first: there is never a frame, and what is told of one grows."""
    film_told, sound_told = found(good.mp4, "minf")[0], found(good.mp4, "minf", 1)[0]
    untold, unheard = "no_streams|unreadable|empty_file", "too_short|unreadable"
    for number, (path, start, _) in enumerate(atoms(good.mp4)):
        name = f"cut_{number:02}_at_{path.rpartition('.')[2]}.mp4"
        audio = unheard if start >= sound_told else "absent|unreadable" if start >= film_told else untold
        yield Case(name, good.mp4[:start], audio, unheard if start >= film_told else untold)
    late = good.clip()
    yield Case("cut_before_its_index.mp4", late[: late.index(b"moov") - 4], "unreadable", "unreadable")
    yield Case("cut_in_half.mkv", good.mkv[: len(good.mkv) // 2], "present", "present")
    yield Case("cut_in_half.ts", good.ts[: len(good.ts) // 2], "present", "present")
    yield Case("cut_late.avi", good.avi[: len(good.avi) * 4 // 5], "present", "present")
    yield Case("cut_in_its_header.mkv", good.mkv[:200], "unreadable|no_streams", "unreadable|no_streams")


def lying(good: Good) -> Iterator[Case]:
    """Headers that lie about lengths, rates, sizes and kinds."""
    lies = {  # an atom of the film, a place in it, what stands there, and what becomes of the sound and the film
        "length_of_days": ("mdhd", 24, 0xFFFFFFF0, "present", "present"),
        "length_of_hours_in_all": ("mvhd", 24, 36_000_000, "present", "present"),
        "no_length": ("mdhd", 24, 0, "present", "present"),
        "no_clock": ("mdhd", 20, 0, "present", "present"),
        "fast_clock": ("mdhd", 20, 0xFFFFFFFF, "present", "present"),
        "index_of_4_gib": ("moov", 0, 0xFFFFFFFF, "present", "present"),
        "index_to_the_end": ("moov", 0, 0, "present", "present"),
        "frames_of_4_gib": ("stsz", 12, 0xFFFFFFFF, "present", "too_short"),
        "frames_without_end": ("stsz", 16, 0xFFFFFFFF, "unreadable", "unreadable"),
        "frames_beyond_the_end": ("stco", 16, 0x7FFFFFFF, "present", "too_short"),
        "frames_of_a_tick": ("stts", 20, 1, "too_fast", "too_fast"),
        "frames_of_days": ("stts", 20, 0x7FFFFFFF, "present", "present"),
    }
    for name, (kind, place, value, audio, faces) in lies.items():
        start = found(good.mp4, kind)[0] + place
        yield Case(f"{name}.mp4", good.mp4[:start] + struct.pack(">I", value) + good.mp4[start + 4 :], audio, faces)
    place = good.mkv.index(b"\x44\x89\x88") + 3
    lengths = {"hours": 36_000.0, "instant": 0.0, "backwards": -5.0, "no_number": np.nan, "endless": np.inf}
    for name, seconds in lengths.items():
        data = good.mkv[:place] + struct.pack(">d", 1000 * seconds) + good.mkv[place + 8 :]
        becomes = "too_long" if name == "hours" else "present"
        yield Case(f"{name}.mkv", data, becomes, becomes)
    place = good.avi.index(b"strh") + 28
    rates = {"unknown": (0, 0, "present"), "fast": (1, 10**9, "too_fast"), "slow": (10**9, 1, "too_long")}
    for name, (scale, rate, becomes) in rates.items():
        data = good.avi[:place] + struct.pack("<II", scale, rate) + good.avi[place + 8 :]
        yield Case(f"rate_{name}.avi", data, becomes, becomes)
    noise, start = np.random.default_rng(0).bytes(20_000), good.mp4.index(b"mdat") + 4
    yield Case("ends_in_noise.mp4", good.mp4 + noise, "present", "present")
    yield Case("noise_for_frames.mp4", good.mp4[:start] + noise[: len(good.mp4) - start], "unreadable", "unreadable")
    yield Case("unknown_codec.mp4", good.mp4.replace(b"avc1", b"xxx1"), "present", "unreadable")
    yield Case("no_tracks.mp4", good.mp4.replace(b"trak", b"free"), "no_streams", "no_streams")
    yield Case("film_called_sound.mp4", good.mp4.replace(b"vide", b"soun"), "present", "absent")
    matrix = found(good.mp4, "tkhd")[0] + 48
    for name, nine in (("zeros", bytes(36)), ("wild_numbers", b"\x7f" * 36)):
        yield Case(f"turned_by_{name}.mp4", good.mp4[:matrix] + nine + good.mp4[matrix + 36 :], "present", "present")


def pointing(good: Good, secret: Path) -> Iterator[Case]:
    """Files that ask for other files or for the network, or are no media, whatever they are called."""
    texts = {
        "list": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{secret}\n#EXT-X-ENDLIST\n",
        "list_of_addresses": f"#EXTM3U\n#EXTINF:1,\n{_ELSEWHERE}\n",
        "list_after_a_mark": f"\ufeff#EXTM3U\n#EXTINF:1,\n{_ELSEWHERE}\n",
        "concat": f"ffconcat version 1.0\nfile {secret}\n",
        "concat_address": f"concat:{secret}|{secret}",
        "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        "dash": f"<?xml version='1.0'?><MPD><BaseURL>{_ELSEWHERE}</BaseURL></MPD>",
        "asx": f'<asx version="3.0"><entry><ref href="{_ELSEWHERE}"/></entry></asx>',
        "reference": f"[Reference]\r\nRef1={_ELSEWHERE}?MSWMExt=.asf\r\n",
        "pls": f"[playlist]\nFile1={_ELSEWHERE}\n",
        "smooth": f'<SmoothStreamingMedia><c d="1" Url="{_ELSEWHERE}"/></SmoothStreamingMedia>',
        "filter": f"movie={secret}",
        "subtitles": "1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        "script": "#!/bin/sh\ntouch ran\n",
        "png": "\x89PNG\r\n\x1a\n" + "\0" * 600,
        "gif": "GIF89a" + "\0" * 600,
        "jpeg": "\xff\xd8\xff\xe0" + "\0" * 600,
        "zip": "PK\x03\x04" + "\0" * 600,
        "gzip": "\x1f\x8b" + "\0" * 600,
        "zeros": "\0" * 5000,
        "one_byte": "\0",
    }
    for name, text in texts.items():
        encoding = "utf-8" if text.isascii() or "\ufeff" in text else "latin-1"
        yield Case(f"{name}.mp4", text.encode(encoding), *FORBIDDEN)
    yield Case("nothing.mp4", b"", "empty_file", "empty_file")
    tagged = b"ID3\x04\0\0\0\0\0\0" + texts["list"].encode()
    yield Case("list_behind_a_tag.mp3", tagged, "unreadable", "unreadable")
    yield Case("frames_in_another_file.mp4", _with_alias(good.mp4, secret), "present", "too_short")


def _with_alias(data: bytes, target: Path) -> bytes:
    """The film's frames are in another file, which a QuickTime alias names by its whole path."""
    path = str(target).encode()
    path += bytes(len(path) % 2)
    tail = (
        struct.pack(">hH", 2, len(path)) + path + struct.pack(">hH", 18, len(path)) + path + struct.pack(">hH", -1, 0)
    )
    alias = b"alis" + bytes(4) + bytes(8) + struct.pack(">H", 2) + bytes(140) + tail
    entry = struct.pack(">I", len(alias) + 4) + alias
    dref = struct.pack(">I4sII", len(entry) + 16, b"dref", 0, 1) + entry
    place, size = found(data, "dref")
    changed, more = bytearray(data), len(dref) - size
    for name, start, length in atoms(data):
        if start < place < start + length:
            changed[start : start + 4] = struct.pack(">I", length + more)
        if name.endswith("stco"):
            count = struct.unpack(">I", data[start + 12 : start + 16])[0]
            chunks = struct.unpack(f">{count}I", data[start + 16 : start + 16 + 4 * count])
            changed[start + 16 : start + 16 + 4 * count] = struct.pack(f">{count}I", *(c + more for c in chunks))
    return bytes(changed[:place] + dref + changed[place + size :])


def named(good: Good) -> Iterator[Case]:
    """A good clip under names that shells, spreadsheets and FFmpeg read something into."""
    odd = (
        " space before.mp4", "space after.mp4 ", "你好 ünï.mp4", "😀.mp4", "new\nline.mp4", "tab\there.mp4", "-rf.mp4",
        "quote\"s'.mp4", "a;b|c&d$(touch ran)`x`.mp4", "%s%n%05d.mp4", "*?[a].mp4", "=1+1.mp4", "@sum.mp4", "..mp4",
        ".hidden.mp4", "back\\slash.mp4", "comma,.mp4", "\u202egnp.mp4", "x" * 251 + ".mp4", "no_ending", "a:1.mp4",
    )  # fmt: skip
    for name in odd:
        yield Case(name, good.mp4, "present", "present")
