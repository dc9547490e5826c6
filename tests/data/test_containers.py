import io

import av
import numpy as np
import pytest
from media_samples import drawing, voice, write_media

from mer_ray.data import frames, streams
from mer_ray.data.containers import Limits, opened, sniff
from mer_ray.data.frames import decode_frames
from mer_ray.data.streams import Tracks
from mer_ray.errors import ClipError, Reason

LIMITS = Limits(max_seconds=10.0, max_pixels=10**6, max_frames_per_second=60.0)
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ADMITTED = {
    "mpeg": {"audio_codec": "mp2", "video_codec": "mpeg1video"},
    "mpegts": {"audio_codec": "mp2", "video_codec": "mpeg2video"},
    "flv": {"audio_codec": "aac", "video_codec": "flv"},
    "asf": {"audio_codec": "wmav2", "video_codec": "wmv2"},
    "aiff": {"audio_codec": "pcm_s16be"},
}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A file of 2 seconds in each format, as bytes."""
    folder = tmp_path_factory.mktemp("containers")
    pictures = drawing((64, 48), 1, 50)
    return {
        name: write_media(
            folder / name, voice(2.0), pictures if "video_codec" in codecs else None, container=name, **codecs
        ).read_bytes()
        for name, codecs in ADMITTED.items()
    }


def packets(size, start, count, filling=b"\x11"):
    """Bytes with a transport stream's sync byte every ``size`` of them."""
    data = bytearray(filling * (size * 4))[:512]
    for index in range(count):
        data[start + size * index] = 0x47
    return bytes(data)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x00\x00\x01\xba\x21" + bytes(64), "mpeg"),  # MPEG-1
        (b"\x00\x00\x01\xba\x44" + bytes(64), "mpeg"),  # MPEG-2
        (b"\x00\x00\x01\xbaftypisom", "mp4"),  # a box of 442 bytes
        (packets(188, 0, 3), "mpegts"),
        (packets(192, 4, 3), "mpegts"),
        (packets(192, 4, 3, b"\n"), "mpegts"),
        (b"FLV\x01\x05" + bytes(16), "flv"),
        (ASF + bytes(16), "asf"),
        (b"FORM....AIFFCOMM", "aiff"),
        (b"FORM....AIFCFVER", "aiff"),
    ],
)
def test_the_first_bytes_name_the_format(head, name):
    assert sniff(head) == name


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x00\x01\xba\x00" + bytes(64),  # no pack follows
        b"\x00\x00\x01\xb3\x14" + bytes(64),  # a bare video stream
        packets(188, 0, 1),
        packets(188, 0, 2),
        packets(188, 0, 3)[:376],  # ends before the third
        packets(192, 0, 3),
        packets(192, 4, 2),
        packets(188, 4, 3),
        b"G" * 100 + b"\nhttp://127.0.0.1:9/a.ts\n" + b"." * 400,
        b"FLV\x02" + bytes(16),
        ASF[:8] + bytes(16),
        b"FORM....8SVXVHDR",
        b"FORM....ILBMBMHD",
        b"RIFF....CDXAfmt ",
    ],
)
def test_what_only_looks_like_it_is_refused(head):
    with pytest.raises(ClipError) as caught:
        sniff(head)
    assert caught.value.reason is Reason.FORBIDDEN_FORMAT


@pytest.mark.parametrize("name", ADMITTED)
def test_limits_hold_before_anything_is_decoded(media, name, monkeypatch):
    """Also where no header holds a duration, as in both MPEG streams."""
    with opened(io.BytesIO(media[name]), LIMITS) as (_, probe):
        assert probe.container == name
        assert probe.seconds == pytest.approx(2.0, abs=0.2)
        assert (probe.width, probe.frames_per_second) == ((None, None) if name == "aiff" else (64, 25.0))
    refused = {Reason.TOO_LONG: Limits(1.5, 10**6, 60.0)}
    if name != "aiff":
        refused |= {Reason.TOO_LARGE: Limits(10.0, 63 * 48, 60.0), Reason.TOO_FAST: Limits(10.0, 10**6, 24.0)}
    for module in (frames, streams):
        monkeypatch.setattr(module, "decoded", None)
    for reason, limits in refused.items():
        with pytest.raises(ClipError) as caught:
            frames.read_frames(io.BytesIO(media[name]), limits, fps=5, max_frames=100)
        assert caught.value.reason is reason


@pytest.mark.parametrize("name", ["mpeg", "mpegts"])
def test_files_joined_end_to_end_go_on_where_the_clock_is_set_back(media, name):
    """The times at the end say 2 seconds, the frames last 6."""
    joined = media[name] * 3
    with opened(io.BytesIO(joined), LIMITS) as (container, probe):
        assert probe.seconds < 2.5
        images, times = decode_frames(Tracks(container, video=True), LIMITS, fps=5, max_frames=100)
    assert len(images) == 30
    np.testing.assert_allclose(times, np.arange(30) / 5, atol=0.05)
    short = Limits(3.0, 10**6, 60.0)
    with opened(io.BytesIO(joined), short) as (container, _), pytest.raises(ClipError) as caught:
        decode_frames(Tracks(container, video=True), short, fps=5, max_frames=100)
    assert caught.value.reason is Reason.TOO_LONG


def test_frames_without_a_time_follow_the_one_before(tmp_path):
    """A program stream has a time for each packet, and H.264 puts several frames into one."""
    path = write_media(tmp_path / "clip", None, drawing((64, 48), 1, 50), container="vob")
    with path.open("rb") as file, opened(file, LIMITS) as (container, _):
        times = [frame.time for frame in container.decode(video=0)]
    assert None in times
    assert times[0]
    with path.open("rb") as file, opened(file, LIMITS) as (container, _):
        found = decode_frames(Tracks(container, video=True), LIMITS, fps=25, max_frames=100)
    np.testing.assert_allclose(found[1], np.arange(50) / 25, atol=1e-3)


def test_the_first_stream_with_a_decoder_is_taken(tmp_path):
    """Telephones put a track beside the others that nothing else decodes."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in drawing((64, 48), 1, 25):
            for stream in streams:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            out.mux(stream.encode(None))
    brand, first, second = path.read_bytes().partition(b"stsd")
    data = brand + first + second.replace(b"avc1", b"xxx1", 1)
    with opened(io.BytesIO(data), LIMITS) as (container, probe):
        assert [bool(stream.codec_context) for stream in container.streams.video] == [False, True]
        assert probe.width == 64
        assert len(decode_frames(Tracks(container, video=True), LIMITS, 5, 10)[0]) == 5
    data = data.replace(b"avc1", b"xxx1")
    with opened(io.BytesIO(data), LIMITS) as (container, probe):
        assert probe.has_video
        with pytest.raises(ClipError, match="no decoder") as caught:
            decode_frames(Tracks(container, video=True), LIMITS, 5, 10)
    assert caught.value.reason is Reason.UNREADABLE
