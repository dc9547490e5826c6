"""The sound and the frames of a file that is fetched, opened and read once."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from media_samples import drawing, voice, write_media

from mer_ray.config import MediaConfig
from mer_ray.data import frames, media, sandbox
from mer_ray.data.media import Decoder
from mer_ray.errors import ClipError, MachineFault, Reason

VOICE = voice(2.0)
FRAMES = drawing((320, 240), 1, 50)
FORMATS = {
    "mp4": {},
    "faststart": {"options": {"movflags": "faststart"}},
    "matroska": {"container": "matroska"},
    "avi": {"container": "avi", "audio_codec": "mp3", "video_codec": "mpeg4"},
    "mpegts": {"container": "mpegts"},
    "vob": {"container": "vob", "audio_codec": "mp2", "video_codec": "mpeg2video"},
    "asf": {"container": "asf", "audio_codec": "wmav2", "video_codec": "wmv2"},
    "sound": {"container": "wav", "audio_codec": "pcm_s16le"},
    "film": {},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    return {
        name: write_media(
            folder / name, None if name == "film" else VOICE, None if name == "sound" else FRAMES, **options
        )
        for name, options in FORMATS.items()
    }


@pytest.fixture(scope="module")
def decoder():
    with Decoder(MediaConfig()) as decoder:
        yield decoder


def alone(decoder, path, fps=5.0):
    """What the two give that ask for one thing each: a value or a reason."""
    for ask in (decoder.audio, lambda path: decoder.frames(path, fps, 150)):
        try:
            yield ask(str(path))
        except ClipError as error:
            yield error


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(found, ClipError):
        assert (found.reason, found.detail) == (expected.reason, expected.detail)
    elif isinstance(found, media.Frames):
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.times, expected.times)
    elif found is not None:
        np.testing.assert_array_equal(found, expected)


def assert_as_alone(decoder, path, fps=5.0):
    found = decoder.audio_and_frames(str(path), fps, 150)
    for one, expected in zip(found, alone(decoder, path, fps), strict=True):
        assert_same(one, expected)
    return found


@pytest.mark.parametrize("fps", [5.0, 20.0])
@pytest.mark.parametrize("name", FORMATS)
def test_both_are_what_each_is_alone(files, decoder, name, fps):
    heard, seen = assert_as_alone(decoder, files[name], fps)
    assert (heard is None) == (name == "film")
    assert (seen is None) == (name == "sound")


@pytest.fixture
def num_opened(monkeypatch):
    """How often a container was opened in this process."""
    opened, counted = sandbox.opened, []

    def counting(*arguments):
        counted.append(arguments)
        return opened(*arguments)

    for module in (sandbox, frames):
        monkeypatch.setattr(module, "opened", counting)
    return counted


def asked(path, kind):
    limits = {"max_seconds": 60.0, "max_pixels": 10**7, "max_frames_per_second": 120.0}
    request = {"kind": kind, "fps": 5.0, "max_frames": 150, "path": str(path), "root": None, "limits": limits}
    return sandbox.answer(request)


def test_a_file_is_opened_once(files, num_opened):
    value, arrays = asked(files["mp4"], "both")
    assert len(num_opened) == 1
    assert {kind: part["num_arrays"] for kind, part in value.items()} == {"audio": 1, "frames": 2}
    assert len(arrays) == 3


def test_a_film_that_is_decoded_whole_after_all_is_opened_again(tmp_path, num_opened, decoder):
    gap = write_media(tmp_path / "gap.ts", VOICE, FRAMES, container="mpegts").read_bytes()
    path = tmp_path / "twice.ts"
    path.write_bytes(gap * 2)
    asked(path, "both")
    assert len(num_opened) == 2
    heard, seen = assert_as_alone(decoder, path)
    assert len(heard) > 3.8 * 16_000
    assert len(seen.times) == 20


def test_an_object_is_fetched_once(files, decoder, monkeypatch):
    fetched = []

    class Bucket:
        def __init__(self, folder):
            self.folder = folder

        def download(self, name, path, check):
            check(files[name].stat().st_size)
            fetched.append(name)
            shutil.copyfile(files[name], path)

    monkeypatch.setattr(media, "Store", Bucket)
    heard, seen = decoder.audio_and_frames("s3://bucket/mp4", 5.0, 150)
    assert fetched == ["mp4"]
    for found, expected in zip((heard, seen), alone(decoder, files["mp4"]), strict=True):
        assert_same(found, expected)


def damaged(data: bytes, kind: str) -> bytes:
    """A film whose sound or pictures no decoder knows."""
    for name in {"audio": (b"mp4a", b"esds"), "frames": (b"avc1",)}[kind]:
        data = data.replace(name, b"xxxx")
    return data


@pytest.mark.parametrize("kind", ["audio", "frames"])
def test_an_error_of_one_leaves_the_other(files, decoder, tmp_path, kind):
    path = tmp_path / "broken.mp4"
    path.write_bytes(damaged(files["mp4"].read_bytes(), kind))
    found = dict(zip(("audio", "frames"), assert_as_alone(decoder, path), strict=True))
    broken = found.pop(kind)
    (whole,) = found.values()
    assert broken.reason is Reason.UNREADABLE
    assert not isinstance(whole, ClipError)


def test_a_stream_that_outlasts_its_limit_leaves_the_other(files, tmp_path):
    long = write_media(tmp_path / "long.ts", VOICE, np.repeat(FRAMES, 3, axis=0), container="mpegts").read_bytes()
    path = tmp_path / "longer.ts"
    path.write_bytes(long * 3)
    with Decoder(MediaConfig(max_seconds=8.0)) as decoder:
        heard, seen = assert_as_alone(decoder, path)
    assert len(heard) < 8 * 16_000
    assert seen.reason is Reason.TOO_LONG


@pytest.mark.parametrize("name", ["cut", "noise"])
def test_a_damaged_file_is_kept_as_far_as_it_goes_in_both(files, decoder, tmp_path, name):
    data = bytearray(files["faststart"].read_bytes())
    start = data.index(b"mdat") + 4
    middle = (start + len(data)) // 2
    path = tmp_path / "broken.mp4"
    path.write_bytes(data[:middle] if name == "cut" else data[:middle] + bytes(200) + data[middle + 200 :])
    heard, seen = assert_as_alone(decoder, path)
    assert len(heard) > 8_000
    assert len(seen.times) > 2


def test_what_is_wrong_with_the_whole_file_is_raised(decoder, tmp_path):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n")
    (tmp_path / "empty.mp4").touch()
    reasons = {"none": Reason.MISSING_FILE, "list": Reason.FORBIDDEN_FORMAT, "empty": Reason.EMPTY_FILE}
    for name, reason in reasons.items():
        with pytest.raises(ClipError) as caught:
            decoder.audio_and_frames(str(tmp_path / f"{name}.mp4"), 5.0, 150)
        assert caught.value.reason is reason


def test_pictures_that_take_too_much_memory_leave_the_sound(tmp_path):
    path = write_media(tmp_path / "many.mp4", VOICE, np.zeros((50, 640, 640, 3), np.uint8))
    with Decoder(MediaConfig(decode_memory_bytes=280 * 2**20)) as decoder:
        heard, seen = decoder.audio_and_frames(str(path), 25, 150)
        assert seen.reason is Reason.OUT_OF_MEMORY
        np.testing.assert_array_equal(heard, decoder.audio(str(path)))


class Dying(Decoder):
    """Its child dies over questions of some kinds."""

    over: tuple[str, ...] = ()
    how = signal.SIGSEGV

    def _exchange(self, request):
        if self.pid is None:
            self._start()
        if request["kind"] in self.over:
            self._child.send_signal(self.how)
            self._child.wait()
        return super()._timed(self._child, request, request["seconds"])


@pytest.mark.parametrize("over", [("both",), ("both", "frames"), ("both", "audio")])
def test_a_child_that_dies_over_both_is_asked_for_each(files, over, decoder):
    with Dying(MediaConfig()) as dying:
        dying.over = over
        found = dying.audio_and_frames(str(files["mp4"]), 5.0, 150)
    expected = [*alone(decoder, files["mp4"])]
    for kind, one, whole in zip(("audio", "frames"), found, expected, strict=True):
        if kind in over:
            assert one.reason is Reason.CRASHED
        else:
            assert_same(one, whole)


def test_a_child_killed_from_outside_is_no_clip_s_fault(files):
    with Dying(MediaConfig()) as dying:
        dying.over, dying.how = ("both", "audio", "frames"), signal.SIGKILL
        with pytest.raises(MachineFault, match="killed from outside"):
            dying.audio_and_frames(str(files["mp4"]), 5.0, 150)


def test_a_file_outside_the_root_is_refused(files, decoder, tmp_path):
    link = tmp_path / "link.mp4"
    link.symlink_to(Path(files["mp4"]))
    with pytest.raises(ClipError, match="leads out of the media root"):
        decoder.audio_and_frames(str(link), 5.0, 150, str(tmp_path))
