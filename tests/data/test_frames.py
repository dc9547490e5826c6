"""Which frames of a video are decoded, and how near they are to the times that they are wanted for."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from media_samples import drawing, voice, write_media

from mer_ray.data import frames
from mer_ray.data.containers import Limits
from mer_ray.data.frames import read_every_frame, read_frames

LIMITS = Limits(max_seconds=60.0, max_pixels=10**7, max_frames_per_second=120.0)
NO_PYRAMID = {"x264-params": "b-pyramid=0:b-adapt=0:bframes=3"}
_TICKS = 12_000  # of a second, which all rates here divide or nearly do


def film(times, size=(320, 240), codec="libx264", container="mp4", options=None) -> io.BytesIO:
    """A film of a disc that moves, a frame at each of the times."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        rate = Fraction(len(times) - 1, 1) / Fraction(times[-1]).limit_denominator(1000)
        stream = out.add_stream(codec, rate=rate.limit_denominator(1001), options=options or {})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        for image, time in zip(drawing(size, 1, len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * _TICKS), Fraction(1, _TICKS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file


def evenly(rate, seconds=2.0):
    return [i / rate for i in range(round(seconds * rate))]


def every_frame(file, fps=5.0, max_frames=150):
    """What is found when every frame is decoded."""
    return read_every_frame(file, LIMITS, fps, max_frames)


@pytest.fixture
def count(monkeypatch):
    """How many frames were decoded."""
    decoded, counted = frames.decoded, []

    def counting(*arguments):
        for frame in decoded(*arguments):
            counted.append(frame.time)
            yield frame

    monkeypatch.setattr(frames, "decoded", counting)
    return counted


@pytest.mark.parametrize("rate", [25, 30])
@pytest.mark.parametrize("options", [{}, NO_PYRAMID, {"preset": "ultrafast"}])
def test_at_720p_fewer_frames_are_decoded_and_all_are_within_a_tenth_of_a_second(count, rate, options):
    file = film(evenly(rate, 1.0), (1280, 720), options=options)
    images, found = read_frames(file, LIMITS, 5.0, 150)
    np.testing.assert_allclose(found, np.arange(5) / 5, atol=0.1)
    assert images.shape == (5, 360, 640, 3)
    if "preset" in options:  # it makes no frame that others do not refer to
        assert len(count) == rate
        expected = every_frame(file)
        np.testing.assert_array_equal(found, expected[1])
        np.testing.assert_array_equal(images, expected[0])
    else:
        assert len(count) < 0.7 * rate


@pytest.mark.parametrize("rate", [24, 30000 / 1001, 50, 60])
@pytest.mark.parametrize(("codec", "container"), [("libx264", "matroska"), ("libx265", "mp4"), ("mpeg4", "matroska")])
def test_other_rates_and_codecs_are_as_near(count, rate, codec, container):
    file = film(evenly(rate), codec=codec, container=container, options={"bf": "2"} if codec == "mpeg4" else {})
    _, found = read_frames(file, LIMITS, 5.0, 150)
    assert len(count) < len(evenly(rate))
    np.testing.assert_allclose(found, np.arange(10) / 5, atol=0.1)
    np.testing.assert_allclose(found, every_frame(file)[1], atol=0.1)


def test_a_frame_is_the_same_whether_or_not_others_were_skipped():
    file = film(evenly(30), options=NO_PYRAMID)
    images, times = read_frames(file, LIMITS, 5.0, 150)
    all_images, all_times = every_frame(file, fps=30.0)
    places = [int(np.abs(all_times - time).argmin()) for time in times]
    np.testing.assert_array_equal(all_times[places], times)
    np.testing.assert_array_equal(images, all_images[places])


def test_each_is_the_nearest_of_those_that_were_decoded(count):
    _, found = read_frames(film(evenly(25), options=NO_PYRAMID), LIMITS, 5.0, 150)
    shown = np.array(count)
    for wanted, time in zip(np.arange(len(found)) / 5, found, strict=True):
        assert abs(time - wanted) == pytest.approx(np.abs(shown - wanted).min(), abs=1e-6)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(film(evenly(25), options={"x264-params": "bframes=16:b-adapt=0:b-pyramid=0"}), id="long gaps"),
        pytest.param(film([*evenly(25, 1.0), *np.arange(2.0, 3.0, 0.04)]), id="a gap"),
    ],
)
def test_where_they_are_too_far_apart_every_frame_is_decoded(count, file):
    images, times = read_frames(file, LIMITS, 5.0, 150)
    assert len(count) > 25
    expected = every_frame(file)
    np.testing.assert_array_equal(times, expected[1])
    np.testing.assert_array_equal(images, expected[0])


@pytest.mark.parametrize(("container", "copies"), [("mpegts", 2), ("vob", 1), ("avi", 1)])
def test_where_times_go_back_or_are_missing_every_frame_is_decoded(tmp_path, container, copies):
    """Files joined end to end, a program stream, a container that has no times of its own."""
    path = write_media(tmp_path / "clip", None, drawing((64, 48), 1, 50), container=container)
    file = io.BytesIO(path.read_bytes() * copies)
    images, times = read_frames(file, LIMITS, 5.0, 150)
    expected = every_frame(file)
    np.testing.assert_array_equal(times, expected[1])
    np.testing.assert_array_equal(images, expected[0])


def test_a_damaged_film_is_kept_as_far_as_it_goes():
    data = bytearray(film(evenly(25), container="matroska").getvalue())
    half = io.BytesIO(bytes(data[: len(data) // 2]))
    np.testing.assert_allclose(read_frames(half, LIMITS, 5.0, 150)[1], every_frame(half)[1], atol=0.1)
    place = len(data) * 3 // 4
    data[place : place + 200] = bytes(200)
    broken = io.BytesIO(bytes(data))
    np.testing.assert_allclose(read_frames(broken, LIMITS, 5.0, 150)[1], every_frame(broken)[1], atol=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_uneven_films_miss_no_time_that_every_frame_would_show(seed):
    steps = np.random.default_rng(seed).choice([1, 1, 1, 2, 3], 60) / 30
    file = film(list(np.cumsum(steps) - steps[0]))
    found, expected = read_frames(file, LIMITS, 5.0, 150)[1], every_frame(file)[1]
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=0.2)
    np.testing.assert_allclose(found, np.arange(len(found)) / 5, atol=0.11)


@pytest.mark.parametrize("max_frames", [1, 3, 7])
def test_a_long_film_is_thinned_as_evenly(max_frames):
    file = film(evenly(25, 8.0), (64, 48))
    found, expected = read_frames(file, LIMITS, 5.0, max_frames)[1], every_frame(file, 5.0, max_frames)[1]
    assert len(found) == max_frames
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_a_film_of_hardly_more_frames_than_wanted_is_decoded_whole(count):
    read_frames(film(evenly(25), options=NO_PYRAMID), LIMITS, 10.0, 150)
    assert len(count) == 50


def test_sound_beside_the_film_changes_nothing(tmp_path):
    path = write_media(tmp_path / "clip.mkv", voice(2.0), drawing((320, 240), 1, 50), container="matroska")
    with path.open("rb") as file:
        _, times = read_frames(file, LIMITS, 5.0, 150)
    np.testing.assert_allclose(times, np.arange(10) / 5, atol=0.1)
