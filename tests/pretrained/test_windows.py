import numpy as np
import pytest

from mer_ray.pretrained.windows import windows


@pytest.mark.parametrize("size", [1, 2, 5, 16])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 16, 17, 31, 32, 33, 100])
def test_they_cover_every_frame_in_as_few_runs_as_that_takes(num_frames, size):
    made = windows(np.arange(num_frames), size)
    assert len(made) == max(1, -(-num_frames // size))
    assert all(len(window) == size for window in made)
    assert sorted({int(frame) for window in made for frame in window}) == list(range(num_frames))
    if num_frames >= size:
        assert all((np.diff(window) == 1).all() for window in made)
    starts = [window[0] for window in made]
    assert starts == sorted(set(starts))


def test_too_few_frames_are_repeated_in_order():
    (window,) = windows(np.arange(3), 7)
    assert window.tolist() == sorted(window.tolist())
    assert set(np.bincount(window)) == {2, 3}


def test_frames_keep_their_shape():
    frames = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    first, second = windows(frames, 16)
    np.testing.assert_array_equal(first, frames[:16])
    np.testing.assert_array_equal(second, frames[4:])
