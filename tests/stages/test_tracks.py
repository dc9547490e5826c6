import numpy as np
import pytest

from mer_ray.detectors.base import Box
from mer_ray.stages.tracks import crop, main_track


def face(x, score=1.0, y=50.0, side=40.0):
    return Box(x, y, side, side, score)


def test_one_face_is_followed():
    track = main_track([[face(10.0 + 2 * i)] for i in range(10)], max_gap=2)
    np.testing.assert_array_equal(track.frames, np.arange(10))
    np.testing.assert_allclose(track.boxes[1:-1, 0], 12 + 2 * np.arange(8))
    np.testing.assert_allclose(track.boxes[:, 2], 40)


def test_of_two_faces_the_one_seen_longest_and_surest_is_kept_and_never_mixed():
    found = [[face(200.0, 3.0), face(10.0, 2.0)] if i < 3 else [face(10.0, 2.0)] for i in range(10)]
    track = main_track(found, max_gap=2)
    assert len(track.frames) == 10
    assert track.boxes[:, 0].max() < 20


def test_order_of_detections_in_a_frame_does_not_matter():
    found = [[face(10.0 + i, 2.0), face(100.0 - i, 1.0)] for i in range(6)]
    turned = [boxes[::-1] for boxes in found]
    np.testing.assert_array_equal(main_track(found, 2).boxes, main_track(turned, 2).boxes)


def test_small_gaps_are_filled_and_long_ones_split():
    small = [[face(10.0)], [], [], [face(16.0)], [face(18.0)]]
    track = main_track(small, max_gap=2)
    np.testing.assert_array_equal(track.frames, np.arange(5))
    assert 11 < track.boxes[1, 0] < track.boxes[2, 0] < 16
    split = main_track([[face(10.0)], [], [], [], [face(10.0)], [face(10.0)]], max_gap=2)
    np.testing.assert_array_equal(split.frames, [4, 5])


def test_trembling_boxes_are_smoothed():
    shaky = main_track([[face(50.0 + 4 * (-1) ** i)] for i in range(10)], max_gap=2)
    assert np.ptp(shaky.boxes[1:-1, 0]) < 0.5


def test_a_leap_is_another_face():
    track = main_track([[face(10.0)]] * 3 + [[face(300.0)]] * 5, max_gap=5)
    np.testing.assert_array_equal(track.frames, [3, 4, 5, 6, 7])


@pytest.mark.parametrize("found", [[], [[], []], [[]] * 20 + [[face(10.0)]]])
def test_no_face_or_a_single_slip_gives_no_track(found):
    assert main_track(found, max_gap=2) is None


def test_crops_are_square_with_a_margin_and_hold_the_box():
    frame = np.zeros((200, 300, 3), np.uint8)
    frame[50:90, 100:140] = 255
    picture = crop(frame, np.array([100, 50, 40, 40], np.float32), margin=0.5, size=60)
    assert picture.shape == (60, 60, 3)
    assert (picture[12:48, 12:48] == 255).all()
    assert (picture[:8] == 0).all()


def test_a_box_beyond_the_frame_repeats_its_edge():
    frame = np.tile(np.arange(100, dtype=np.uint8)[:, None, None], (1, 100, 3))
    picture = crop(frame, np.array([-20, -20, 40, 40], np.float32), margin=0.0, size=40)
    assert (picture[:20] == 0).all()
    assert picture[-1, -1, 0] == 19
