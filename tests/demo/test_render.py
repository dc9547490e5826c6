from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from media_samples import streams

from mer_ray.demo import render
from mer_ray.demo.plan import Broken, DemoClip, plan
from mer_ray.demo.render import clean_voice


@pytest.mark.parametrize("kind", list(Broken))
def test_broken_clips_are_broken_as_said(kind: Broken, tmp_path: Path) -> None:
    clip = next(clip for clip in plan(600, seed=0) if clip.broken is kind)
    path = tmp_path / "clip.mp4"
    render.write(clip, path)
    assert list(tmp_path.iterdir()) == [path]
    if kind in (Broken.EMPTY_FILE, Broken.NOTHING_LEFT):
        assert path.stat().st_size == 0
    elif kind in (Broken.TRUNCATED, Broken.TEXT_FILE):
        with pytest.raises(av.error.InvalidDataError):
            av.open(str(path))
    elif kind is Broken.WRONG_EXTENSION:
        assert path.read_bytes()[:4] == b"RIFF"
    else:
        frames, samples, peak = streams(path)
        assert (frames > 0) == (kind not in (Broken.NO_VIDEO, Broken.ZERO_SECONDS))
        assert (samples > 0) == (kind not in (Broken.NO_AUDIO, Broken.ZERO_SECONDS))
        assert (peak > 0.01) == (kind in (Broken.NO_VIDEO, Broken.NO_FACE))


def test_faces_are_found_by_an_ordinary_detector() -> None:
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"))

    def found(clip: DemoClip) -> list[bool]:
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in render.frames(clip)[::6]]
        return [len(cascade.detectMultiScale(grey, 1.1, 4, minSize=(40, 40))) == 1 for grey in greys]

    clips = plan(600, seed=6)
    people = {clip.speaker: clip for clip in clips if clip.broken is None}
    assert np.mean([hit for clip in people.values() for hit in found(clip)]) > 0.95
    empty = [clip for clip in clips if clip.broken is Broken.NO_FACE]
    assert not any(hit for clip in empty for hit in found(clip))


def test_prosody_and_expression_follow_the_emotion() -> None:
    """Loudness and movement, measured in what is made and not in the plan."""
    clips = [clip for clip in plan(600, seed=7) if clip.broken is None]

    def loudness(emotion: str) -> float:
        voices = [clean_voice(clip) for clip in clips if clip.voice.emotion == emotion][:8]
        return float(np.median([np.sqrt(np.mean(voice**2)) for voice in voices]))

    assert loudness("anger") > 2 * loudness("sadness")
    feeling = [clip for clip in clips if clip.face.emotion == "surprise"][:6]
    resting = [clip for clip in clips if clip.face.emotion == "neutral"][:6]

    def motion(some: list[DemoClip]) -> float:
        return float(np.mean([render.frames(clip).astype(float).std(axis=0).mean() for clip in some]))

    assert motion(feeling) > motion(resting)
