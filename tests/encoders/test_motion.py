import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mer_ray.encoders.base import ClipInput
from mer_ray.encoders.motion import Config, Encoder


@pytest.fixture
def texture():
    rng = np.random.default_rng(0)
    return (gaussian_filter(rng.uniform(0, 1, (64, 96)), 3) * 2000 % 255).astype(np.uint8)


def describe(greys, times=None):
    faces = np.stack([np.repeat(g[..., None], 3, axis=2) for g in greys])
    return Encoder(Config()).encode([ClipInput(faces=faces, face_times=times)])[0][0]


def test_a_shift_to_the_right_is_seen_with_its_speed(texture):
    smooth = gaussian_filter(texture.astype(float), 2).astype(np.uint8)
    frames = [smooth[:, 16 - 2 * i : 80 - 2 * i] for i in range(5)]
    features = describe(frames, np.arange(5, dtype=np.float32) / 5)
    horizontal, vertical = features[:16].reshape(4, 4)[1:3, 1:3], features[16:32].reshape(4, 4)[1:3, 1:3]
    assert horizontal.mean() == pytest.approx(2 / 64 / 0.2, rel=0.3)
    assert np.abs(vertical).mean() < 0.03


def test_one_frame_has_no_motion_but_a_look(texture):
    features = describe([texture[:, :64]])
    np.testing.assert_array_equal(features[:64], 0)
    assert features[64:].any()


def test_a_mouth_that_moves_is_told_from_one_that_does_not(texture):
    still = texture[:, :64]
    moved = still.copy()
    moved[42:60, 14:50] = moved[42:60, 14:50][::-1]
    change = describe([still, moved, still])[64:].reshape(4, 8)[:, 6]
    assert change[3] > 0.05
    assert change[0] == 0
