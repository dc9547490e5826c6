"""One visit gives what each stage gives alone, and reads each file once."""

import pickle
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mer_ray.config import DenoiseConfig, FacesConfig, MediaConfig
from mer_ray.data.media import Decoder
from mer_ray.errors import MachineFault, Reason
from mer_ray.speech.noise import Noise
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.visit import MediaVisit

SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))
voice, talking_face, write_media = SAMPLES["voice"], SAMPLES["talking_face"], SAMPLES["write_media"]
MEDIA = MediaConfig()
CLIP = pa.struct(
    [
        *(pa.field(name, pa.string()) for name in ("clip_id", "video", "audio", "faces", "text")),
        pa.field("seen", pa.list_(pa.string())),
    ]
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("visit")
    frames = talking_face((160, 120), 40)
    write_media(folder / "good.mp4", voice(1.6), frames)
    write_media(folder / "mute.mp4", None, frames)
    write_media(folder / "silent.mp4", np.zeros(16_000, np.float32), frames)
    write_media(folder / "blind.mp4", voice(1.0))
    write_media(folder / "faceless.mp4", voice(1.0), np.full((10, 120, 160, 3), 90, np.uint8))
    write_media(folder / "sound.wav", voice(1.0, 2), container="wav", audio_codec="pcm_s16le")
    (folder / "unseen.mp4").write_bytes((folder / "good.mp4").read_bytes().replace(b"avc1", b"xxx1"))
    (folder / "list.mp4").write_text("#EXTM3U\n")
    np.save(folder / "ready.npy", np.zeros((5, 64, 64, 3), np.uint8))
    return folder


def clips_of(folder):
    alone = [{"video": name} for name in ("good.mp4", "mute.mp4", "silent.mp4", "blind.mp4", "faceless.mp4")]
    bad = [{"video": name} for name in ("unseen.mp4", "list.mp4", "gone.mp4")]
    several = [
        {"video": "good.mp4", "audio": "good.mp4"},
        {"video": "mute.mp4", "audio": "sound.wav"},
        {"video": "good.mp4", "faces": "ready.npy"},
        {"audio": "good.mp4"},
        {"faces": "ready.npy"},
        {"video": "unseen.mp4", "audio": "gone.wav"},
        {},
    ]
    return [{name: f"{folder}/{value}" for name, value in clip.items()} for clip in [*alone, *bad, *several]]


def batch_of(clips, **columns):
    rows = [{name: clip.get(name) for name in CLIP.names} | {"clip_id": f"c{i}"} for i, clip in enumerate(clips)]
    return pa.table({"clip_id": [row["clip_id"] for row in rows], "clip": pa.array(rows, CLIP)} | columns)


def stages_of(denoise=None, noise=None, **faces):
    audio = DenoiseStage(MEDIA, denoise or DenoiseConfig(), 60.0, noise)
    return audio, FacesStage(MEDIA, FacesConfig(size=48, **faces), 30.0)


def alone(stage, batch):
    stage.setup()
    return stage.process(stage.prepare(batch))


def visited(stages, batch):
    visit = MediaVisit(*stages)
    visit.setup()
    return visit.process(visit.prepare(batch))


@pytest.fixture
def asked(monkeypatch):
    """What decoders were asked about which file."""
    exchange, told = Decoder._exchange, []

    def telling(self, request):
        told.append((request["kind"], Path(request["path"]).name))
        return exchange(self, request)

    monkeypatch.setattr(Decoder, "_exchange", telling)
    return told


@pytest.mark.parametrize(
    ("options", "is_noisy"),
    [
        ({}, False),
        ({"fps": 8.0, "max_frames": 6}, False),
        ({}, True),
        ({"denoise": DenoiseConfig(enabled=True)}, False),
    ],
    ids=["as it is", "other frames", "in noise", "denoised"],
)
def test_rows_are_those_of_each_stage_alone(files, options, is_noisy):
    noise = Noise("environment", 5.0, str(files), 0) if is_noisy else None
    batch = batch_of(clips_of(files))
    made = visited(stages_of(noise=noise, **options), batch)
    assert [*made] == ["audio", "faces"]
    for stage in stages_of(noise=noise, **options):
        expected = alone(stage, batch)
        assert made[stage.name].equals(expected)
        assert set(expected["present"].to_pylist()) == {True, False}
        assert {None} < set(expected["error"].to_pylist()) <= {"unreadable", "forbidden_format", "missing_file", None}


def test_each_file_is_read_once(files, asked):
    visit = MediaVisit(*stages_of())
    several = [{"video": "good.mp4"}, {"video": "mute.mp4", "audio": "sound.wav"}, {"video": "good.mp4", "faces": "x"}]
    visit.prepare(batch_of([{name: f"{files}/{value}" for name, value in clip.items()} for clip in several]))
    assert asked == [("both", "good.mp4"), ("frames", "mute.mp4"), ("audio", "sound.wav"), ("audio", "good.mp4")]


def test_an_error_of_the_pictures_leaves_the_sound(files):
    made = visited(stages_of(), batch_of([{"video": f"{files}/unseen.mp4"}]))
    (heard,), (seen,) = (made[name].to_pylist() for name in ("audio", "faces"))
    assert heard["present"]
    assert seen["error"] == Reason.UNREADABLE


def test_a_clip_has_rows_in_the_tables_that_it_lacks_alone(files, asked):
    clips = [{"video": f"{files}/good.mp4"}] * 4
    wanted = [["audio"], ["faces", "audio"], ["faces"], []]
    batch = batch_of(clips, wanted=pa.array(wanted, pa.list_(pa.string())))
    made = visited(stages_of(), batch)
    kinds = [kind for kind, _ in asked]
    assert kinds == ["audio", "both", "frames"]
    for stage, places in zip(stages_of(), ([0, 1], [1, 2]), strict=True):
        assert made[stage.name].equals(alone(stage, batch).take(places))


def test_a_batch_may_be_cut_after_it_is_prepared(files):
    visit = MediaVisit(*stages_of())
    visit.setup()
    batch = batch_of(clips_of(files))
    prepared = visit.prepare(batch)
    whole = visit.process(prepared)
    for start, end in ((0, 1), (3, 9), (5, 5)):
        for name, rows in visit.process(prepared.slice(start, end - start)).items():
            assert rows.equals(whole[name].slice(start, end - start))


def test_what_travels_on_is_sounds_and_crops(files):
    prepared = MediaVisit(*stages_of()).prepare(batch_of([{"video": f"{files}/good.mp4"}]))
    assert prepared.column_names == ["clip_id", "wanted", "prepared", "faces"]
    assert len(prepared["prepared"][0]["audio"].as_buffer()) > 4 * 1.5 * 16_000
    assert prepared["prepared"].chunk(0).field("faces").null_count == 1, "no frames"
    assert 0 < prepared["faces"].nbytes < 160 * 120 * 3, "less than one of them"


def test_a_file_that_the_driver_saw_and_a_node_does_not_blames_no_clip(files):
    gone = f"{files}/gone.mp4"
    with pytest.raises(MachineFault, match="was there when the job began"):
        MediaVisit(*stages_of()).prepare(batch_of([{"video": gone, "seen": [gone]}]))


def test_it_travels_to_its_workers_with_what_it_was_told(files):
    visit = pickle.loads(pickle.dumps(MediaVisit(*stages_of())))
    (row,) = visit.prepare(batch_of([{"video": f"{files}/good.mp4"}]))["faces"].to_pylist()
    assert row["present"]
    assert [*visit.stages] == ["audio", "faces"]
    assert visit.reads == ("clip",)


def test_stages_of_different_limits_make_no_visit():
    with pytest.raises(AssertionError, match="one decoder"):
        MediaVisit(stages_of()[0], FacesStage(MediaConfig(max_seconds=1), FacesConfig(), 60.0))


class TestResources:
    def test_a_worker_that_does_both_has_what_both_need(self):
        audio = DenoiseConfig(actors=(2, 8), memory_bytes=3, cpus=2.0, batch_size=4)
        needs = MediaVisit(*stages_of(audio, actors=(1, 4), memory_bytes=2)).resources
        assert (needs.cpus, needs.gpus, needs.memory_bytes, needs.batch_size) == (2.0, 0.0, 5, 4)
        assert (needs.min_actors, needs.max_actors, needs.clip_seconds) == (2, 4, 90.0)

    def test_nothing_told_is_nothing_asked(self):
        needs = MediaVisit(*stages_of()).resources
        assert (needs.memory_bytes, needs.min_actors, needs.max_actors) == (None, 1, None)

    def test_the_least_is_never_above_the_most(self):
        needs = MediaVisit(*stages_of(DenoiseConfig(actors=8), actors=2)).resources
        assert (needs.min_actors, needs.max_actors) == (2, 2)

    def test_workers_on_gpus_have_what_denoising_needs(self):
        audio, faces = stages_of(DenoiseConfig(enabled=True, memory_bytes=7), actors=2, memory_bytes=9)
        audio.resources = replace(audio.resources, gpus=1.0)
        assert MediaVisit(audio, faces).resources == replace(audio.resources, clip_seconds=90.0)
