import csv
import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from media_samples import streams

from mer_ray.demo import render
from mer_ray.demo.files import MANIFEST, TRUTH, make
from mer_ray.demo.plan import plan
from mer_ray.demo.render import clean_voice
from mer_ray.types import Split

NUM_CLIPS, SEED = 40, 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("demo"), NUM_CLIPS, SEED, workers=1).parent


def rows(root: Path) -> list[dict[str, str]]:
    with (root / MANIFEST).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_manifest_hides_what_it_must(made: Path) -> None:
    clips = {clip.clip_id: clip for clip in plan(NUM_CLIPS, SEED)}
    for row in rows(made):
        clip = clips[row["clip_id"]]
        assert row["label"] == ("" if clip.split is Split.UNLABELED else clip.label)
        assert (made / row["video"]).is_file()
        assert row["text"] in ("", " ".join(clip.words))
    truth = pq.read_table(made / TRUTH).to_pylist()
    assert {row["clip_id"]: row["label"] for row in truth} == {name: clip.label for name, clip in clips.items()}


def test_sound_clips_decode_to_the_planned_length(made: Path) -> None:
    clips = {clip.clip_id: clip for clip in plan(NUM_CLIPS, SEED) if clip.broken is None}
    checked = 0
    for row in rows(made)[:15]:
        if row["clip_id"] in clips:
            clip = clips[row["clip_id"]]
            frames, samples, peak = streams(made / row["video"])
            assert peak > 0.01
            seconds = len(clean_voice(clip)) / 16_000
            assert 1.2 < seconds < 5
            assert abs(frames / render.FPS - seconds) <= 0.1
            assert abs(samples / clip.sample_rate_hz - seconds) < 0.2
            checked += 1
    assert checked > 5


def test_same_seed_same_bytes_and_resume(made: Path, tmp_path: Path) -> None:
    """Made in two processes, with half of the clips lost on the way and then made again."""
    manifest = make(tmp_path, NUM_CLIPS, SEED, workers=2)
    first = digests(tmp_path)
    assert first == digests(made)
    clips = sorted(tmp_path.rglob("*.mp4"))
    kept = clips[::2]
    for clip in clips[1::2]:
        clip.unlink()
    manifest.unlink()
    times = {path: path.stat().st_mtime_ns for path in kept}
    seen: list[tuple[int, int]] = []
    make(tmp_path, NUM_CLIPS, SEED, progress=lambda done, total: seen.append((done, total)), workers=1)
    assert digests(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert seen[0][0] > len(kept)
    assert seen[-1] == (NUM_CLIPS, NUM_CLIPS)
