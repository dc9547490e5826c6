"""Media in S3, extracted by a job: what it asks for, and what it does without room for its temporary files."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from media_samples import talking_face, voice, write_media
from s3_proxy import Proxy

from mer_ray import config
from mer_ray.data.storage import Store

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.faults]
CLIPS = [f"c{i}" for i in range(4)]


@pytest.fixture(scope="module")
def clips(bucket) -> Store:
    """A manifest and four clips of sound alone, each larger than the small disk."""
    store = bucket / "clips"
    for i, clip_id in enumerate(CLIPS):
        sink = io.BytesIO()
        soundfile.write(sink, voice(11.0, seed=i), 16_000, format="WAV")
        store.write(f"{clip_id}.wav", sink.getvalue())
    manifest = pd.DataFrame({"clip_id": CLIPS, "audio": [f"{clip_id}.wav" for clip_id in CLIPS]})
    store.write("clips.csv", manifest.to_csv(index=False).encode())
    return store


@pytest.fixture(scope="module")
def film(bucket, tmp_path_factory) -> Store:
    """A manifest and a clip of sound and picture."""
    store, path = bucket / "film", tmp_path_factory.mktemp("film") / "film.mp4"
    write_media(path, voice(0.8), talking_face((160, 120), 20))
    store.write("film.mp4", path.read_bytes())
    store.write("clips.csv", b"clip_id,video\nfilm,film.mp4\n")
    return store


def extract(
    clips: Store, run_dir: Store, encoders: str = "{loud: {plugin: logmel}}", **environment: str
) -> subprocess.CompletedProcess[str]:
    script = str(config.REPOSITORY / "jobs" / "extract.py")
    runtime = "runtime={num_cpus: 2, object_store_bytes: 100000000, max_machine_faults: 0}"
    told = [
        f"data.manifest={clips.path('clips.csv')}",
        f"run.dir={run_dir}",
        f"encoders={encoders}",
        runtime,
    ]
    return subprocess.run(
        [sys.executable, script, *told],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
        env={**os.environ, **environment},
    )


def rows_of(run_dir: Store) -> dict[tuple[str, str], dict]:
    """The rows of all tables by step and clip."""
    parts = [name for name in run_dir.details("tables", deep=True) if name.endswith(".parquet") and "/_" not in name]
    found = {}
    for part in parts:
        for row in pq.read_table(io.BytesIO(run_dir.read(f"tables/{part}"))).to_pylist():
            found[part.partition("/")[0], row["clip_id"]] = row
    return found


def assert_whole(run_dir: Store) -> None:
    rows = rows_of(run_dir)
    assert {clip_id for step, clip_id in rows if step == "loud"} == set(CLIPS)
    assert not any(row["error"] for row in rows.values())


def test_a_media_object_is_fetched_once(proxy: Proxy, clips, store):
    proxy.asked.clear()
    done = extract(clips, store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: dict(proxy.count(rf"/{name}\.wav")) for name in CLIPS} == {name: {"GET": 1} for name in CLIPS}
    assert_whole(store)


def test_a_film_is_fetched_once_for_its_sound_and_its_faces(proxy: Proxy, film, store):
    done = extract(film, store, "{loud: {plugin: logmel}, shape: {plugin: hog}}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert dict(proxy.count(r"/film\.mp4")) == {"GET": 1}
    assert {name: row["present"] for (name, _), row in rows_of(store).items()} == dict.fromkeys(
        ("audio", "faces", "loud", "shape"), True
    )


def test_no_room_for_the_temporary_file_blames_no_clip_and_the_same_command_finishes(clips, store, small_disk):
    place, grow = small_disk
    rooms = {"TMPDIR": str(place), "RAY_TMPDIR": str(Path("/tmp"))}
    done = extract(clips, store, **rooms)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space left" in done.stdout + done.stderr
    assert not rows_of(store)
    grow()
    done = extract(clips, store, **rooms)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_whole(store)
