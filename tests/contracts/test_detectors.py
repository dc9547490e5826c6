"""What every face detector must hold (detectors/base.py), over every file of the kind."""

import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from mer_ray import registry

talking_face = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))["talking_face"]


@pytest.fixture(params=registry.names("detectors"))
def detector(request):
    detector = registry.build("detectors", request.param, {})
    detector.load()
    return detector


def best(detector, frame):
    boxes = detector.detect(frame[None])[0]
    assert boxes
    assert [box.score for box in boxes] == sorted((box.score for box in boxes), reverse=True)
    return boxes[0]


def test_a_real_face_is_found_where_it_is(detector):
    box = best(detector, skimage.data.astronaut())
    centre = (box.left + box.width / 2, box.top + box.height / 2)
    assert 200 < centre[0] < 250
    assert 90 < centre[1] < 145
    assert 70 < box.width < 140


def test_drawn_faces_are_found_in_every_frame(detector):
    frames = talking_face((320, 240), 5, centre=0.4)
    for boxes in detector.detect(frames):
        assert abs(boxes[0].left + boxes[0].width / 2 - 128) < 25
        assert abs(boxes[0].top + boxes[0].height / 2 - 120) < 30


@pytest.mark.parametrize("name", ["coffee", "rocket", "noise", "black"])
def test_no_face_where_there_is_none(detector, name):
    pictures = {
        "noise": lambda: np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8),
        "black": lambda: np.zeros((240, 320, 3), np.uint8),
    }
    picture = pictures[name]() if name in pictures else getattr(skimage.data, name)()
    assert detector.detect(picture[None]) == [[]]


def test_no_frames_and_tiny_frames(detector):
    assert detector.detect(np.zeros((0, 48, 64, 3), np.uint8)) == []
    assert detector.detect(np.zeros((2, 4, 4, 3), np.uint8)) == [[], []]
    assert detector.detect(np.zeros((1, 1, 640, 3), np.uint8)) == [[]]


def test_the_same_frames_give_the_same_boxes_also_after_pickling(detector):
    frames = talking_face((320, 240), 2)
    copy = pickle.loads(pickle.dumps(type(detector)(detector.config)))
    copy.load()
    assert detector.detect(frames) == detector.detect(frames) == copy.detect(frames)
    assert isinstance(detector.version, int)
    assert detector.identity == copy.identity
