import csv
import hashlib
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from mer_ray.data import demo, demo_render
from mer_ray.data.demo_plan import CLASS_SHARES, SPLIT_SHARES
from mer_ray.data.demo_words import EMOTION_WORDS, phones, vocabulary
from mer_ray.types import MER2024, Split

NUM_CLIPS, SEED = 40, 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.make(tmp_path_factory.mktemp("demo"), NUM_CLIPS, SEED, workers=1).parent


def rows(root: Path) -> list[dict[str, str]]:
    with (root / demo.MANIFEST).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def streams(path: Path) -> tuple[int, int, float]:
    """Decoded frames, audio samples and their peak."""
    with av.open(str(path)) as container:
        kinds = {stream.type for stream in container.streams}
        frames = sum(1 for _ in container.decode(video=0)) if "video" in kinds else 0
    with av.open(str(path)) as container:
        sounds = [frame.to_ndarray() for frame in container.decode(audio=0)] if "audio" in kinds else []
    return frames, sum(sound.size for sound in sounds), max((float(np.abs(sound).max()) for sound in sounds), default=0)


def test_plan_has_the_shares_it_promises() -> None:
    clips = demo.plan(600, seed=0)
    assert len({clip.clip_id for clip in clips}) == 600
    splits = Counter(clip.split for clip in clips)
    for split, share in SPLIT_SHARES.items():
        assert splits[split] == round(share * 600)
        labels = Counter(clip.label for clip in clips if clip.split is split)
        assert set(labels) == set(MER2024.names)
        assert all(abs(labels[name] / splits[split] - part) < 0.03 for name, part in CLASS_SHARES.items())
    assert 0.3 < np.mean([clip.noise is not None for clip in clips]) < 0.4
    assert Counter(clip.broken for clip in clips if clip.broken).total() == 30
    assert {clip.broken for clip in clips} == {None, *demo.Broken}


@pytest.mark.parametrize("num_clips", [24, 30, 37, 100])
def test_small_plans_have_every_class_in_every_split(num_clips: int) -> None:
    clips = demo.plan(num_clips, seed=1)
    assert len(clips) == num_clips
    seen = Counter((clip.split, clip.label) for clip in clips)
    assert all(seen[split, name] >= 1 for split in Split for name in MER2024.names)
    assert all(seen[Split.TRAIN, name] >= 2 for name in MER2024.names)


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 24"):
        demo.plan(23, seed=0)


def test_no_speaker_of_the_test_clips_is_labelled() -> None:
    clips = demo.plan(600, seed=2)
    tested = {clip.speaker for clip in clips if clip.split is Split.TEST}
    assert len(tested) >= 4
    assert not tested & {clip.speaker for clip in clips if clip.split is Split.TRAIN}


def test_plan_depends_on_the_seed_alone() -> None:
    assert demo.plan(60, 4) == demo.plan(60, 4)
    assert demo.plan(60, 4) != demo.plan(60, 5)


def test_words_have_different_sounds_and_classes_share_some() -> None:
    assert len({phones(word) for word in vocabulary()}) == len(vocabulary())
    shared = Counter(word for words in EMOTION_WORDS.values() for word in set(words))
    assert 3 <= sum(count > 1 for count in shared.values()) <= 20


def test_manifest_hides_what_it_must(made: Path) -> None:
    clips = {clip.clip_id: clip for clip in demo.plan(NUM_CLIPS, SEED)}
    for row in rows(made):
        clip = clips[row["clip_id"]]
        assert row["label"] == ("" if clip.split is Split.UNLABELED else clip.label)
        assert (made / row["video"]).is_file()
        assert row["text"] in ("", " ".join(clip.words))
    truth = pq.read_table(made / demo.TRUTH).to_pylist()
    assert {row["clip_id"]: row["label"] for row in truth} == {name: clip.label for name, clip in clips.items()}


def test_sound_clips_decode_to_the_planned_length(made: Path) -> None:
    clips = {clip.clip_id: clip for clip in demo.plan(NUM_CLIPS, SEED) if clip.broken is None}
    checked = 0
    for row in rows(made)[:15]:
        if row["clip_id"] in clips:
            clip = clips[row["clip_id"]]
            frames, samples, peak = streams(made / row["video"])
            assert peak > 0.01
            seconds = len(demo.clean_voice(clip)) / 16_000
            assert 1.2 < seconds < 5
            assert abs(frames / demo_render.FPS - seconds) <= 0.1
            assert abs(samples / clip.sample_rate_hz - seconds) < 0.2
            checked += 1
    assert checked > 5


def test_same_seed_same_bytes_and_resume(made: Path, tmp_path: Path) -> None:
    """Made in two processes, with half of the clips lost on the way and then made again."""
    manifest = demo.make(tmp_path, NUM_CLIPS, SEED, workers=2)
    first = digests(tmp_path)
    assert first == digests(made)
    clips = sorted(tmp_path.rglob("*.mp4"))
    kept = clips[::2]
    for clip in clips[1::2]:
        clip.unlink()
    manifest.unlink()
    times = {path: path.stat().st_mtime_ns for path in kept}
    seen: list[tuple[int, int]] = []
    demo.make(tmp_path, NUM_CLIPS, SEED, progress=lambda done, total: seen.append((done, total)), workers=1)
    assert digests(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert seen[0][0] > len(kept)
    assert seen[-1] == (NUM_CLIPS, NUM_CLIPS)


@pytest.mark.parametrize("kind", list(demo.Broken))
def test_broken_clips_are_broken_as_said(kind: demo.Broken, tmp_path: Path) -> None:
    clip = next(clip for clip in demo.plan(600, seed=0) if clip.broken is kind)
    path = tmp_path / "clip.mp4"
    demo_render.write(clip, path)
    assert list(tmp_path.iterdir()) == [path]
    broken = demo.Broken
    if kind in (broken.EMPTY_FILE, broken.NOTHING_LEFT):
        assert path.stat().st_size == 0
    elif kind in (broken.TRUNCATED, broken.TEXT_FILE):
        with pytest.raises(av.error.InvalidDataError):
            av.open(str(path))
    elif kind is broken.WRONG_EXTENSION:
        assert path.read_bytes()[:4] == b"RIFF"
    else:
        frames, samples, peak = streams(path)
        assert (frames > 0) == (kind not in (broken.NO_VIDEO, broken.ZERO_SECONDS))
        assert (samples > 0) == (kind not in (broken.NO_AUDIO, broken.ZERO_SECONDS))
        assert (peak > 0.01) == (kind in (broken.NO_VIDEO, broken.NO_FACE))


def test_faces_are_found_by_an_ordinary_detector() -> None:
    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"))

    def found(clip: demo.DemoClip) -> list[bool]:
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in demo_render.frames(clip)[::6]]
        return [len(cascade.detectMultiScale(grey, 1.1, 4, minSize=(40, 40))) == 1 for grey in greys]

    clips = demo.plan(600, seed=6)
    people = {clip.speaker: clip for clip in clips if clip.broken is None}
    assert np.mean([hit for clip in people.values() for hit in found(clip)]) > 0.95
    empty = [clip for clip in clips if clip.broken is demo.Broken.NO_FACE]
    assert not any(hit for clip in empty for hit in found(clip))


def test_prosody_and_expression_follow_the_emotion() -> None:
    """Loudness and movement, measured in what is made and not in the plan."""
    clips = [clip for clip in demo.plan(600, seed=7) if clip.broken is None]

    def loudness(emotion: str) -> float:
        voices = [demo.clean_voice(clip) for clip in clips if clip.voice.emotion == emotion][:8]
        return float(np.median([np.sqrt(np.mean(voice**2)) for voice in voices]))

    assert loudness("anger") > 2 * loudness("sadness")
    feeling = [clip for clip in clips if clip.face.emotion == "surprise"][:6]
    resting = [clip for clip in clips if clip.face.emotion == "neutral"][:6]

    def motion(some: list[demo.DemoClip]) -> float:
        return float(np.mean([demo_render.frames(clip).astype(float).std(axis=0).mean() for clip in some]))

    assert motion(feeling) > motion(resting)
