"""The demo's folder: the planned clips as real mp4 files, with a manifest.

What only the demo knows (true labels of unlabeled clips, true noise, what is broken) goes apart to
``truth/truth.parquet``, which no training code reads.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import joblib
import pyarrow as pa
import pyarrow.parquet as pq
from joblib.externals.loky import get_reusable_executor

from mer_ray.config import digest
from mer_ray.demo.plan import SPLIT_SHARES, VERSION, Broken, DemoClip, plan
from mer_ray.demo.render import write
from mer_ray.types import Split

MANIFEST = "manifest.csv"
TRUTH = "truth/truth.parquet"
COLUMNS = ("clip_id", "video", "text", "label", "split", "speaker")
_CHUNK = 8

Progress = Callable[[int, int], None]


def make(
    root: Path,
    num_clips: int,
    seed: int,
    progress: Progress | None = None,
    workers: int = 2,
    labelled: float = SPLIT_SHARES[Split.TRAIN],
) -> Path:
    """Make the demo's clips under ``root`` and return the manifest's path.

    Clips that are there already are kept, so an interrupted call can be repeated; another ``seed``, ``num_clips``
    or ``labelled`` has its own clips. The manifest is written last. The same arguments give the same bytes.

    Args:
        root: the folder; made if missing.
        num_clips: how many, broken ones included.
        seed: of everything random.
        progress: called with the clips finished and their total.
        workers: most processes at a time; 1 makes the clips in this one.
        labelled: share of the clips that are labelled for training.

    Raises:
        ValueError: see ``plan``.
        OSError: the disk refuses.
    """
    clips = plan(num_clips, seed, labelled)
    paths = places(clips, num_clips, seed, labelled)
    for folder in {path.parent for path in paths.values()}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    missing = [clip for clip in clips if not (root / paths[clip.clip_id]).exists()]
    done = len(clips) - len(missing)
    for count in _write_all([(clip, root / paths[clip.clip_id]) for clip in missing], workers):
        done += count
        if progress:
            progress(done, len(clips))
    (root / TRUTH).parent.mkdir(exist_ok=True)
    with _whole(root / TRUTH) as beside:
        pq.write_table(truth_table(clips), beside)
    with _whole(root / MANIFEST) as beside:
        beside.write_text(manifest(clips, paths), encoding="utf-8")
    return root / MANIFEST


def places(clips: Sequence[DemoClip], num_clips: int, seed: int, labelled: float) -> dict[str, Path]:
    """Where ``make`` puts each clip, under its root."""
    made_of = {"version": VERSION, "num_clips": num_clips, "seed": seed, "labelled": labelled}
    folder = Path("clips") / digest(made_of)[:8]
    return {clip.clip_id: folder / f"{clip.clip_id}.mp4" for clip in clips}


def truth_table(clips: Sequence[DemoClip]) -> pa.Table:
    """All that is known of the clips, one row each: for scoring and reports, never for training."""
    return pa.table(
        {
            "clip_id": [clip.clip_id for clip in clips],
            "split": [str(clip.split) for clip in clips],
            "speaker": [_speaker(clip) for clip in clips],
            "label": [clip.label for clip in clips],
            "text": [" ".join(clip.words) for clip in clips],
            "voice_emotion": [clip.voice.emotion for clip in clips],
            "voice_intensity": [clip.voice.intensity for clip in clips],
            "face_emotion": [clip.face.emotion for clip in clips],
            "face_intensity": [clip.face.intensity for clip in clips],
            "text_emotion": [clip.text.emotion for clip in clips],
            "noise": pa.array([clip.noise and str(clip.noise) for clip in clips], pa.string()),
            "snr_db": [clip.snr_db for clip in clips],
            "broken": pa.array([clip.broken and str(clip.broken) for clip in clips], pa.string()),
        }
    )


def _write_all(jobs: Sequence[tuple[DemoClip, Path]], workers: int) -> Iterator[int]:
    """Write the clips in chunks over processes; yields how many each chunk had."""
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    if workers == 1 or len(chunks) < 2:
        yield from map(_write_chunk, chunks)
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=workers, batch_size=1, return_as="generator_unordered")
        try:
            yield from parallel(joblib.delayed(_write_chunk)(chunk) for chunk in chunks)
        finally:
            get_reusable_executor().shutdown(wait=True)


def _write_chunk(jobs: Sequence[tuple[DemoClip, Path]]) -> int:
    for clip, path in jobs:
        write(clip, path)
    return len(jobs)


def manifest(clips: Sequence[DemoClip], paths: Mapping[str, Path]) -> str:
    """The manifest of clips at these places, as CSV."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    for clip in clips:
        label = "" if clip.split is Split.UNLABELED else clip.label
        writer.writerow((clip.clip_id, paths[clip.clip_id].as_posix(), _text(clip), label, clip.split, _speaker(clip)))
    return lines.getvalue()


def _text(clip: DemoClip) -> str:
    blank = clip.broken in (Broken.BLANK_TEXT, Broken.NOTHING_LEFT) or not clip.text_given
    return "" if blank else " ".join(clip.words)


def _speaker(clip: DemoClip) -> str:
    return f"s{clip.speaker:02d}"


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write beside ``path``, put in its place at the end."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
