import errno
import os
import pickle
import runpy
import signal
import struct
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from mer_ray.config import MediaConfig
from mer_ray.data import containers, sandbox
from mer_ray.data.media import Decoder, decode_flac, decode_jpeg, encode_flac, encode_jpeg
from mer_ray.errors import ClipError, MachineFault, Reason

SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))
voice, drawing, write_media = SAMPLES["voice"], SAMPLES["drawing"], SAMPLES["write_media"]

VOICE = voice(3.0)
FRAMES = drawing((320, 240), 1, 75)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_media(folder / "clip.mp4", VOICE, FRAMES)
    write_media(folder / "clip.mkv", VOICE, FRAMES, container="matroska")
    write_media(folder / "faststart.mp4", VOICE, FRAMES, options={"movflags": "faststart"})
    return folder


@pytest.fixture(scope="module")
def decoder():
    with Decoder(MediaConfig()) as decoder:
        yield decoder


def reason_of(decode, *arguments):
    with pytest.raises(ClipError) as caught:
        decode(*arguments)
    return caught.value.reason


def similarity(samples):
    """Correlation with the voice that was encoded, at the best shift (encoders delay it, or lose its start)."""
    return max(np.corrcoef(VOICE[2000:40000], samples[2000 + k : 40000 + k])[0, 1] for k in range(-520, 1200, 8))


@pytest.mark.parametrize(
    ("container", "codecs"),
    [
        ("mp4", {"audio_codec": "aac", "video_codec": "libx264"}),
        ("mov", {"audio_codec": "aac", "video_codec": "libx264"}),
        ("matroska", {"audio_codec": "aac", "video_codec": "libx264"}),
        ("avi", {"audio_codec": "mp3", "video_codec": "mpeg4"}),
        ("mpegts", {"audio_codec": "aac", "video_codec": "libx264"}),
        ("mpegts", {"audio_codec": "mp2", "video_codec": "libx264", "options": {"mpegts_m2ts_mode": "1"}}),
        ("mpeg", {"audio_codec": "mp2", "video_codec": "mpeg1video"}),
        ("vob", {"audio_codec": "mp2", "video_codec": "mpeg2video"}),
        ("flv", {"audio_codec": "aac", "video_codec": "flv"}),
        ("asf", {"audio_codec": "wmav2", "video_codec": "wmv2"}),
        ("wav", {"audio_codec": "pcm_s16le"}),
        ("aiff", {"audio_codec": "pcm_s16be"}),
        ("aiff", {"audio_codec": "pcm_s16le"}),
        ("flac", {"audio_codec": "flac"}),
        ("mp3", {"audio_codec": "libmp3lame"}),
        ("adts", {"audio_codec": "aac"}),
    ],
)
def test_every_admitted_container_gives_its_sound_and_frames(decoder, tmp_path, container, codecs):
    has_video = "video_codec" in codecs
    path = write_media(tmp_path / "clip", VOICE, FRAMES if has_video else None, container=container, **codecs)
    samples = decoder.audio(str(path))
    assert samples.dtype == np.float32
    assert abs(len(samples) - 48_000) < 2_500
    assert similarity(samples) > 0.95
    found = decoder.frames(str(path), 5, 150)
    assert (found is not None) == has_video
    if found is not None:
        assert found.images.shape[1:] == (240, 320, 3)
        np.testing.assert_allclose(found.times[:15], np.arange(15) / 5, atol=0.1)
        error = np.abs(found.images[:15].astype(int) - FRAMES[np.round(found.times[:15] * 25).astype(int)]).mean()
        assert error < 6  # the right pictures in RGB order, but for the encoder's loss


def test_stereo_at_another_rate_becomes_mono_at_16_khz(decoder, tmp_path):
    path = tmp_path / "stereo.wav"
    high = voice(1.0, rate=44_100)
    soundfile.write(path, np.stack([high, high], axis=1), 44_100)
    samples = decoder.audio(str(path))
    assert abs(len(samples) - 16_000) < 32
    assert np.abs(samples).max() == pytest.approx(np.abs(high).max(), rel=0.1)


def test_long_clips_are_thinned_evenly(decoder, folder):
    found = decoder.frames(str(folder / "clip.mp4"), 25, 10)
    assert len(found.times) == 10
    gaps = np.diff(found.times)
    assert gaps.min() >= 0.2
    assert gaps.max() <= 0.41


def test_frames_are_scaled_down_and_turned_upright(decoder, tmp_path):
    path = write_media(tmp_path / "large.mp4", None, drawing((1280, 720), 1, 5))
    assert decoder.frames(str(path), 5, 10).images.shape[1:] == (360, 640, 3)
    turned = tmp_path / "turned.mp4"
    frames = np.zeros((5, 96, 160, 3), np.uint8)
    frames[:, :, 80:] = 255  # the right half is white
    with av.open(str(turned), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.set_display_rotation(90)
        for image in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))
    image = decoder.frames(str(turned), 5, 10).images[0]
    assert image.shape == (160, 96, 3)
    assert (image[:80].mean() > 200) != (image[80:].mean() > 200)
    assert image[:70].mean() > 200  # turned counterclockwise: the right side is on top


def test_absence_is_no_error(decoder, tmp_path):
    silent = write_media(tmp_path / "silent.mp4", None, FRAMES)
    blind = write_media(tmp_path / "blind.mp4", VOICE)
    disguised = write_media(tmp_path / "disguised.mp4", VOICE, container="wav", audio_codec="pcm_s16le")
    assert decoder.audio(str(silent)) is None
    assert decoder.frames(str(silent), 5, 10) is not None
    for path in (blind, disguised):
        assert decoder.frames(str(path), 5, 10) is None
        assert len(decoder.audio(str(path))) >= 48_000
    assert decoder.probe(str(disguised)).container == "wav"


def test_a_cover_picture_is_no_video(decoder, tmp_path):
    path = write_media(tmp_path / "song.m4a", VOICE, FRAMES[:1], video_codec="mjpeg", cover=True)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # it is there
    assert decoder.frames(str(path), 5, 10) is None
    assert not decoder.probe(str(path)).has_video


def test_decoding_is_deterministic(folder, decoder):
    path = str(folder / "clip.mp4")
    with Decoder(MediaConfig()) as other:
        np.testing.assert_array_equal(decoder.audio(path), other.audio(path))
        np.testing.assert_array_equal(decoder.frames(path, 5, 9).images, other.frames(path, 5, 9).images)


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n",
        b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>",
        b"concat:/etc/hostname|/etc/hostname",
        b'<asx version="3.0"><entry><ref href="http://127.0.0.1:9/a.wmv"/></entry></asx>',
        b"[Reference]\r\nRef1=http://127.0.0.1:9/a.asf?MSWMExt=.asf\r\n",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"GIF89a" + bytes(64),
    ],
)
def test_playlists_and_pictures_are_forbidden_whatever_they_are_called(decoder, tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert reason_of(decoder.audio, str(path)) is Reason.FORBIDDEN_FORMAT
    assert reason_of(decoder.frames, str(path), 5, 10) is Reason.FORBIDDEN_FORMAT


def test_the_demuxer_cannot_open_another_file(tmp_path):
    secret = write_media(tmp_path / "secret.ts", VOICE, container="mpegts")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{secret}\n#EXT-X-ENDLIST\n")
    with playlist.open("rb") as file, av.open(file, format="hls", options={"allowed_extensions": "ALL"}) as opened:
        assert opened.streams.audio  # what an unguarded demuxer does
    with playlist.open("rb") as file, pytest.raises((ClipError, av.FFmpegError)):
        av.open(file, format="hls", options={"allowed_extensions": "ALL"}, io_open=containers._refuse_other_file)


def test_addresses_other_than_s3_are_never_opened(decoder):
    assert reason_of(decoder.audio, "http://127.0.0.1:9/a.mp4") is Reason.FORBIDDEN_FORMAT
    assert reason_of(decoder.audio, "concat:/etc/hostname|/etc/hostname") is Reason.MISSING_FILE


def test_files_that_are_not_there_or_hold_nothing(decoder, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason_of(decoder.audio, str(tmp_path / "none.mp4")) is Reason.MISSING_FILE
    assert reason_of(decoder.audio, str(empty)) is Reason.EMPTY_FILE
    assert reason_of(decoder.audio, str(tmp_path / "pipe.mp4")) is Reason.FORBIDDEN_FORMAT
    assert reason_of(decoder.audio, str(tmp_path)) is Reason.FORBIDDEN_FORMAT
    assert reason_of(decoder.audio, "a\0b.mp4") is Reason.UNREADABLE


def test_a_truncated_file_is_kept_as_far_as_it_goes(decoder, folder, tmp_path):
    whole = (folder / "faststart.mp4").read_bytes()
    half, headless, stub = tmp_path / "half.mp4", tmp_path / "headless.mp4", tmp_path / "stub.mp4"
    half.write_bytes(whole[: len(whole) * 6 // 10])
    headless.write_bytes((folder / "clip.mp4").read_bytes()[: len(whole) // 2])
    stub.write_bytes(whole[: whole.index(b"mdat") + 12])
    assert 16_000 * 0.5 < len(decoder.audio(str(half))) < 16_000 * 2.9
    assert 2 < len(decoder.frames(str(half), 5, 50).times) < 15
    assert reason_of(decoder.audio, str(headless)) is Reason.UNREADABLE
    assert reason_of(decoder.audio, str(stub)) in {Reason.UNREADABLE, Reason.TOO_SHORT}
    assert reason_of(decoder.frames, str(stub), 5, 50) in {Reason.UNREADABLE, Reason.TOO_SHORT}


def test_garbage_after_a_good_header_is_refused_not_fatal(decoder, folder, tmp_path):
    whole = bytearray((folder / "faststart.mp4").read_bytes())
    start = whole.index(b"mdat") + 4
    whole[start:] = np.random.default_rng(0).bytes(len(whole) - start)
    path = tmp_path / "noise.mp4"
    path.write_bytes(whole)
    pid = decoder.pid
    assert reason_of(decoder.audio, str(path)) in {Reason.UNREADABLE, Reason.NOT_FINITE}
    assert reason_of(decoder.frames, str(path), 5, 50) in {Reason.UNREADABLE, Reason.TOO_SHORT}
    assert decoder.pid == pid
    assert decoder.audio(str(folder / "clip.mp4")) is not None


def test_fuzzed_files_never_break_the_decoder(decoder, folder, tmp_path):
    rng = np.random.default_rng(1)
    pid = decoder.probe(str(folder / "clip.mkv")) and decoder.pid
    outcomes = set()
    for trial in range(40):
        data = bytearray((folder / ("clip.mkv" if trial % 2 else "faststart.mp4")).read_bytes())
        for place in rng.integers(0, 3000, 30):
            data[place] = rng.integers(256)
        path = tmp_path / "fuzzed"
        path.write_bytes(data)
        try:
            outcomes.add(decoder.audio(str(path)) is not None)
        except ClipError as error:
            outcomes.add(error.reason)
    assert outcomes & {Reason.UNREADABLE, Reason.NO_STREAMS, Reason.FORBIDDEN_FORMAT}
    assert Reason.CRASHED not in outcomes
    assert decoder.pid == pid


def test_no_streams(decoder, folder, tmp_path):
    path = tmp_path / "none.mp4"
    path.write_bytes((folder / "clip.mp4").read_bytes().replace(b"trak", b"free"))
    assert reason_of(decoder.audio, str(path)) is Reason.NO_STREAMS


def test_headers_beyond_the_limits_are_refused_before_decoding(folder, tmp_path):
    path = str(folder / "clip.mp4")
    fast = str(write_media(tmp_path / "fast.mp4", None, drawing((64, 48), 0, 100), fps=1000))
    assert _reason_under({"max_seconds": 2.0}, path) is Reason.TOO_LONG
    assert _reason_under({"max_pixels": 300 * 200}, path) is Reason.TOO_LARGE
    assert _reason_under({"max_bytes": 5_000}, path) is Reason.TOO_LARGE
    assert _reason_under({}, fast) is Reason.TOO_FAST


def _reason_under(limits, path):
    with Decoder(MediaConfig(**limits)) as decoder:
        return reason_of(decoder.frames, path, 5, 50)


def _with_duration(source, target, seconds):
    """A Matroska file whose header lies about its length."""
    data = bytearray(source.read_bytes())
    place = data.index(b"\x44\x89\x88") + 3
    data[place : place + 8] = struct.pack(">d", seconds * 1000)
    target.write_bytes(data)
    return str(target)


def test_a_header_that_claims_ten_hours_is_refused(decoder, folder, tmp_path):
    path = _with_duration(folder / "clip.mkv", tmp_path / "long.mkv", 36_000.0)
    assert decoder.probe(str(folder / "clip.mkv")).seconds == pytest.approx(3.0, abs=0.1)
    assert reason_of(decoder.audio, path) is Reason.TOO_LONG
    assert reason_of(decoder.frames, path, 5, 50) is Reason.TOO_LONG


def test_a_header_that_claims_too_little_is_caught_while_decoding(folder, tmp_path):
    path = _with_duration(folder / "clip.mkv", tmp_path / "short.mkv", 0.5)
    with Decoder(MediaConfig(max_seconds=1.0)) as decoder:
        assert decoder.probe(path).seconds < 1.0
        assert reason_of(decoder.audio, path) is Reason.TOO_LONG
        assert reason_of(decoder.frames, path, 5, 50) is Reason.TOO_LONG


def test_a_picture_larger_than_its_header_is_refused_while_decoding(tmp_path):
    path = write_media(tmp_path / "bomb.avi", None, FRAMES[:20], container="avi", video_codec="mjpeg")
    data = path.read_bytes()
    assert data.count(struct.pack("<ii", 320, 240)) >= 1
    path.write_bytes(data.replace(struct.pack("<ii", 320, 240), struct.pack("<ii", 32, 24)))
    assert _reason_under({"max_pixels": 100 * 100}, str(path)) in {Reason.TOO_LARGE, Reason.UNREADABLE}


def test_a_header_that_claims_65k_pixels_across_is_refused(tmp_path):
    path = write_media(tmp_path / "huge.mkv", None, FRAMES[:3], container="matroska", video_codec="ffv1")
    data = bytearray(path.read_bytes())
    width, height = data.index(b"\xb0\x82\x01\x40"), data.index(b"\xba\x81\xf0")
    data[width + 2 : width + 4] = b"\xff\xff"
    data[height + 2] = 0xFF
    path.write_bytes(data)
    assert _reason_under({"max_pixels": 4096 * 4000}, str(path)) is Reason.TOO_LARGE


def test_a_child_killed_between_clips_is_replaced(folder):
    path = str(folder / "clip.mp4")
    with Decoder(MediaConfig()) as decoder:
        first, pid = decoder.audio(path), decoder.pid
        os.kill(pid, signal.SIGKILL)
        np.testing.assert_array_equal(decoder.audio(path), first)
        assert decoder.pid not in {None, pid}


@pytest.fixture
def strike(monkeypatch):
    """Sends each decoder that starts from now on a signal before it is asked anything; gives those that it struck."""

    def begin(how):
        start, struck = Decoder._start, []

        def start_and_strike(self):
            child = start(self)
            os.kill(child.pid, how)
            struck.append(child.pid)
            return child

        monkeypatch.setattr(Decoder, "_start", start_and_strike)
        return struck

    return begin


def test_a_child_killed_once_while_decoding_costs_nothing(folder):
    path, killed = str(folder / "clip.mp4"), []
    with Decoder(MediaConfig()) as decoder:
        first, pid = decoder.audio(path), decoder.pid
        os.kill(pid, signal.SIGSTOP)  # it is asked, and dies over it
        killer = threading.Timer(0.3, lambda: killed.append(os.kill(pid, signal.SIGKILL)))
        killer.start()
        np.testing.assert_array_equal(decoder.audio(path), first)
        killer.join()
        assert len(killed) == 1
        assert decoder.pid != pid


def test_a_clip_that_kills_its_decoder_is_reported_and_the_next_one_decoded(folder, strike, monkeypatch):
    path = str(folder / "clip.mp4")
    with Decoder(MediaConfig()) as decoder:
        struck = strike(signal.SIGSEGV)
        assert reason_of(decoder.audio, path) is Reason.CRASHED
        assert len(set(struck)) == 2
        monkeypatch.undo()
        assert decoder.audio(path) is not None


def test_a_decoder_killed_from_outside_is_no_clip_s_fault(folder, strike):
    struck = strike(signal.SIGKILL)
    with Decoder(MediaConfig()) as decoder, pytest.raises(MachineFault, match="killed from outside"):
        decoder.audio(str(folder / "clip.mp4"))
    assert len(set(struck)) == 2


def test_a_decoder_that_does_not_start_is_no_clip_s_fault(folder, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with Decoder(MediaConfig()) as decoder, pytest.raises(MachineFault, match="does not start"):
        decoder.audio(str(folder / "clip.mp4"))


def test_a_clip_that_hangs_its_decoder_twice_is_too_slow(folder, strike):
    struck = strike(signal.SIGSTOP)
    start = time.monotonic()
    with Decoder(MediaConfig(decode_seconds=0.5)) as decoder:
        assert reason_of(decoder.audio, str(folder / "clip.mp4")) is Reason.TIMEOUT
    assert len(set(struck)) == 2
    assert time.monotonic() - start < 60


def test_a_decoder_that_hangs_once_costs_nothing(folder):
    path = str(folder / "clip.mp4")
    with Decoder(MediaConfig(decode_seconds=1.0)) as decoder:
        first = decoder.audio(path)
        os.kill(decoder.pid, signal.SIGSTOP)
        np.testing.assert_array_equal(decoder.audio(path), first)


def test_memory_is_limited(tmp_path):
    path = write_media(tmp_path / "many.mp4", None, np.zeros((40, 640, 640, 3), np.uint8))
    with Decoder(MediaConfig(decode_memory_bytes=280 * 2**20)) as decoder:
        assert decoder.probe(str(path)).width == 640
        assert reason_of(decoder.frames, str(path), 25, 150) is Reason.OUT_OF_MEMORY
        assert decoder.frames(str(path), 5, 3) is not None


def test_ffmpegs_want_of_memory_is_no_damage():
    why = sandbox._why_not(av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory"))
    assert why["error"][0] is Reason.OUT_OF_MEMORY
    assert sandbox._why_not(av.error.InvalidDataError(errno.EIO, "bad"))["error"][0] is Reason.UNREADABLE


def test_no_child_outlives_its_decoder(folder):
    decoder = Decoder(MediaConfig())
    decoder.audio(str(folder / "clip.mp4"))
    pid = decoder.pid
    decoder.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_decoder_pickles_as_its_limits(folder):
    with Decoder(MediaConfig(max_seconds=7)) as decoder:
        decoder.audio(str(folder / "clip.mp4"))
        with pickle.loads(pickle.dumps(decoder)) as copy:
            assert copy.media == decoder.media
            assert copy.pid is None


def test_flac_and_jpeg_return_what_they_were_given():
    np.testing.assert_allclose(decode_flac(encode_flac(VOICE)), VOICE, atol=1 / 32768)
    assert encode_flac(VOICE) == encode_flac(VOICE)
    image = FRAMES[0]
    assert np.abs(decode_jpeg(encode_jpeg(image)).astype(int) - image).mean() < 4
    assert reason_of(decode_flac, b"not flac") is Reason.UNREADABLE
    assert reason_of(decode_jpeg, b"") is Reason.UNREADABLE
    assert reason_of(decode_jpeg, b"not a jpeg") is Reason.UNREADABLE
