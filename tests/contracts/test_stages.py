"""What every stage must hold (stages/base.py), on real files; a bad clip stands among good ones."""

import functools
import json
import pickle
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mer_ray import registry
from mer_ray.config import DenoiseConfig, EncoderConfig, FacesConfig, MediaConfig, TranscribeConfig
from mer_ray.errors import Reason
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.encode import EncodeStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.transcribe import TranscribeStage

SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))
voice, talking_face, write_media = SAMPLES["voice"], SAMPLES["talking_face"], SAMPLES["write_media"]
CLIP = pa.struct([pa.field(name, pa.string()) for name in ("clip_id", "video", "audio", "faces", "text")])
MEDIA = MediaConfig()

MAKERS = {
    "audio": lambda: DenoiseStage(MEDIA, DenoiseConfig(), 60.0),
    "audio denoised": lambda: DenoiseStage(MEDIA, DenoiseConfig(enabled=True), 60.0),
    "faces": lambda: FacesStage(MEDIA, FacesConfig(), 60.0),
    "transcript": lambda: TranscribeStage(TranscribeConfig(), DenoiseConfig(), 60.0),
    "transcript recognised": lambda: TranscribeStage(TranscribeConfig(enabled=True), DenoiseConfig(), 60.0),
} | {
    name: lambda name=name: EncodeStage(name, EncoderConfig(plugin=name, options=tiny_options(name)), 60.0)
    for name in registry.names("encoders")
}


@functools.cache
def tiny_options(name):
    module = registry.find("encoders", name) if name in registry.names("encoders") else None
    return module.tiny().config.model_dump() if hasattr(module, "tiny") else {}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    frames = talking_face((160, 120), 40)
    write_media(folder / "good.mp4", voice(1.6), frames)
    write_media(folder / "other.mp4", voice(1.2, 3), frames[::-1])
    write_media(folder / "mute.mp4", None, frames)
    write_media(folder / "sound.wav", voice(1.0, 2), container="wav", audio_codec="pcm_s16le")
    (folder / "empty.mp4").touch()
    (folder / "list.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/a.ts\n")
    texts = {"good": "I did not expect that!", "other": "oh no", "mute": "你好吗", "sound": " "}
    rows = [
        {"clip_id": path.stem, "video": str(path), "text": texts.get(path.stem, "some words")}
        for path in sorted(folder.iterdir())
    ]
    return [*rows, {"clip_id": "nothing"}, {"clip_id": "gone", "video": str(folder / "gone.mp4")}]


def clip_column(clips):
    return pa.array([{name: clip.get(name) for name in CLIP.names} for clip in clips], CLIP)


def upstream(table):
    """A table as the column that later stages read: null where the row is absent or in error."""
    rows = [row if row["present"] else None for row in table.to_pylist()]
    return pa.array(rows, pa.struct(list(table.schema)))


@pytest.fixture(scope="module")
def batch(clips):
    ids = pa.array([clip["clip_id"] for clip in clips])
    table = pa.table({"clip_id": ids, "clip": clip_column(clips)})
    made = {name: run(MAKERS[name](), table) for name in ("audio", "faces", "transcript")}
    for name, result in made.items():
        table = table.append_column(name, upstream(result))
    return table


def run(stage, batch):
    given = batch.select(["clip_id", *stage.reads])
    stage.setup()
    return stage.process(stage.prepare(given))


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_same_clips_in_the_same_order_in_its_schema(make, batch):
    stage = make()
    result = run(stage, batch)
    assert result.schema == stage.schema
    assert result.column("clip_id").to_pylist() == batch.column("clip_id").to_pylist()
    backwards = run(stage, batch.take(list(range(len(batch)))[::-1]))
    assert backwards.take(list(range(len(batch)))[::-1]).equals(result)


def test_columns_are_there_exactly_when_the_clip_is_present(make, batch):
    rows = run(make(), batch).to_pylist()
    assert {row["clip_id"] for row in rows if row["present"]} >= {"good", "other"}
    first = make().columns[0].name
    for row in rows:
        assert (row[first] is not None) == row["present"]
        assert not (row["present"] and row["error"])
        assert (row["error"] is None) == (row["detail"] is None)
        assert row["error"] is None or row["error"] in set(Reason)


def test_clips_do_not_depend_on_their_neighbours(make, batch):
    stage = make()
    together = run(stage, batch)
    alone = pa.concat_tables([run(stage, batch.slice(i, 1)) for i in range(len(batch))])
    if not tiny_options(stage.name):
        assert alone.equals(together)
        return
    assert alone.drop_columns(["vector"]).equals(together.drop_columns(["vector"]))
    for one, two in zip(alone["vector"].to_pylist(), together["vector"].to_pylist(), strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-4 * np.abs(two).max())


def test_it_travels_to_a_worker(make, batch):
    stage = pickle.loads(pickle.dumps(make()))
    assert stage.name
    assert stage.version >= 1
    assert json.loads(json.dumps(stage.spec)) == make().spec
    assert all(isinstance(value, str) for value in stage.provenance.values())
    assert run(stage, batch).equals(run(make(), batch))


def test_an_empty_batch_is_an_empty_table(make, batch):
    stage = make()
    assert run(stage, batch.slice(0, 0)).equals(stage.schema.empty_table())


def test_what_became_of_each_clip(clips, batch):
    rows = {name: {row["clip_id"]: row for row in run(MAKERS[name](), batch).to_pylist()} for name in MAKERS}

    def outcome(step, clip_id):
        row = rows[step][clip_id]
        return row["error"] or ("present" if row["present"] else "absent")

    wanted = {
        "good": ("present", "present", "present"),
        "other": ("present", "present", "present"),
        "mute": ("absent", "present", "present"),
        "sound": ("present", "absent", "absent"),
        "empty": ("empty_file", "empty_file", "present"),
        "list": ("forbidden_format", "forbidden_format", "present"),
        "nothing": ("absent", "absent", "absent"),
        "gone": ("missing_file", "missing_file", "absent"),
    }
    for clip_id, (audio, faces, transcript) in wanted.items():
        assert outcome("audio", clip_id) == audio
        assert outcome("faces", clip_id) == faces
        assert outcome("transcript", clip_id) == transcript
        for name in registry.names("encoders"):
            reads = MAKERS[name]().reads
            has = all(outcome(step, clip_id) == "present" for step in reads)
            assert outcome(name, clip_id) == ("present" if has else "absent")


def test_vectors_are_finite_and_as_wide_as_promised(batch):
    for name in registry.names("encoders"):
        for pooling in ("mean", "mean_std"):
            stage = EncodeStage("x", EncoderConfig(plugin=name, options=tiny_options(name), pooling=pooling), 60.0)
            vectors = [v for v in run(stage, batch).column("vector").to_pylist() if v is not None]
            assert len(vectors) >= 2
            assert np.shape(vectors) == (len(vectors), stage.dim)
            assert np.isfinite(vectors).all()
