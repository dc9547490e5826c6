"""What is written for other tools, read back."""

from contextlib import nullcontext

import datasets
import numpy as np
import pyarrow as pa
import pytest

from mer_ray.config import EncoderConfig, ExportConfig
from mer_ray.data import export, ready
from mer_ray.data.export import FeatureTable
from mer_ray.data.storage import Store
from mer_ray.data.table import Table
from mer_ray.errors import ConfigError
from mer_ray.stages.base import ROW_FIELDS
from mer_ray.types import Clip, Split

IDS = [f"clip_{i:03d}" for i in range(300)]
ABSENT, BROKEN = "clip_007", "clip_260"
CLIPS = [
    Clip(
        name,
        Split.TRAIN if i < 200 else Split.UNLABELED,
        text=f"t{i}",
        label="sad" if i < 200 else None,
        valence=-0.5 if i < 200 else None,
    )
    for i, name in enumerate(IDS)
]


def sequences(dim):
    rng = np.random.default_rng(dim)
    return {name: rng.normal(size=(1 + i % 4, dim)).astype(np.float16) for i, name in enumerate(IDS)}


@pytest.fixture
def voice(tmp_path):
    """A table with two poolings and frames; one clip is absent, one is an error."""
    frames = sequences(3)
    columns = [
        pa.field("vector", pa.list_(pa.float32(), 3)),
        pa.field("vector_mean_std", pa.list_(pa.float32(), 6)),
        pa.field("frames", pa.large_binary()),
        pa.field("num_frames", pa.int32()),
        pa.field("dim", pa.int32()),
    ]
    schema = pa.schema([*ROW_FIELDS[:2], *columns, *ROW_FIELDS[2:]])
    table = Table(Store(str(tmp_path / "tables")), "hubert", schema, {})
    rows = []
    for name in IDS:
        row = {"clip_id": name, "present": name not in (ABSENT, BROKEN)}
        if row["present"]:
            mean, std = frames[name].astype(np.float32).mean(0), frames[name].astype(np.float32).std(0)
            row |= {"vector": mean, "vector_mean_std": np.concatenate([mean, std])}
            row |= {"frames": frames[name].tobytes(), "num_frames": len(frames[name]), "dim": 3}
        rows.append(row | {"error": "timeout" if name == BROKEN else None})
    keys = {name: f"k{name}" for name in IDS}
    for start in range(0, 300, 64):
        part = rows[start : start + 64]
        table.commit(pa.Table.from_pylist(part, schema=schema), [keys[row["clip_id"]] for row in part], {})
    return FeatureTable("hubert", table, table.index(keys), "float16"), frames


def test_the_toolboxes_files_are_read_back_by_our_own_import(voice, tmp_path):
    feature, frames = voice
    folders = export.to_mertools([feature], IDS, str(tmp_path / "set"))
    assert folders == ("features/hubert-UTT", "features/hubert-mean_std-UTT", "features/hubert-FRA")
    found = {one.name: one for one in ready.discover(str(tmp_path / "set/features"), {})}
    assert set(found) == {"hubert-UTT", "hubert-mean_std-UTT"}, "the pooled ones come before the frames"
    assert found["hubert-UTT"].modality == "audio"
    loaded = ready.load(found["hubert-UTT"], IDS)
    assert not loaded.quarantine
    assert [name for name, there in zip(IDS, loaded.feature.present, strict=True) if not there] == [ABSENT, BROKEN]
    for name, vector in zip(IDS, loaded.feature.values, strict=True):
        if name not in (ABSENT, BROKEN):
            np.testing.assert_allclose(vector, frames[name].astype(np.float32).mean(0), rtol=1e-6)


def test_frames_are_written_as_they_are_and_zeros_for_a_clip_without(voice, tmp_path):
    feature, frames = voice
    export.to_mertools([feature], IDS, str(tmp_path / "set"))
    folder = tmp_path / "set/features/hubert-FRA"
    assert sorted(path.stem for path in folder.iterdir()) == IDS
    for name in IDS:
        written = np.load(folder / f"{name}.npy")
        assert written.dtype == np.float16
        expected = np.zeros((1, 3)) if name in (ABSENT, BROKEN) else frames[name]
        np.testing.assert_array_equal(written, expected)
    blank = np.load(tmp_path / "set/features/hubert-UTT" / f"{ABSENT}.npy")
    assert blank.shape == (3,)
    assert not blank.any()


def test_a_hugging_face_dataset_is_loaded_back(voice, tmp_path):
    feature, frames = voice
    folder = str(tmp_path / "hf")
    assert export.to_huggingface([feature], CLIPS, ["happy", "sad"], folder) == ("train", "unlabeled")
    made = datasets.load_from_disk(folder)
    assert {split: rows["clip_id"][:] for split, rows in made.items()} == {"train": IDS[:200], "unlabeled": IDS[200:]}
    assert made["train"].features["label"].names == ["happy", "sad"]
    assert set(made["train"]["label"]) == {1}
    assert set(made["unlabeled"]["label"]) == {None}
    row = made["train"][3]
    assert (row["text"], row["valence"]) == ("t3", -0.5)
    assert set(made["unlabeled"]["valence"]) == {None}
    np.testing.assert_allclose(row["hubert"], frames[IDS[3]].astype(np.float32).mean(0), rtol=1e-6)
    np.testing.assert_array_equal(row["hubert_frames"], frames[IDS[3]])
    assert len(row["hubert_mean_std"]) == 6
    lacking = made["train"][7]
    assert (lacking["clip_id"], lacking["hubert"], lacking["hubert_frames"]) == (ABSENT, None, None)


TWICE = {"pooling": ["mean", "mean_std"]}


@pytest.mark.parametrize(
    ("encoders", "huggingface", "mertools"),
    [
        *(({name: {}}, "the clip itself", None) for name in ("text", "label", "speaker", "clip_id", "valence")),
        ({"a": TWICE, "a_mean_std": {}}, "encoders.a would both be a_mean_std", None),
        ({"a_frames": {}, "a": {"sequences": "float16"}}, "encoders.a_frames would both be a_frames", None),
        ({"a": TWICE, "a-mean_std": {}}, None, "encoders.a would both be a-mean_std-UTT"),
        ({"a": TWICE, "b": {**TWICE, "sequences": "float32"}, "a_mean": {}}, None, None),
    ],
)
def test_no_two_things_are_written_under_one_name(encoders, huggingface, mertools):
    named = {name: EncoderConfig(plugin="ngrams", **given) for name, given in encoders.items()}
    for key, told in (("huggingface", huggingface), ("mertools", mertools)):
        with pytest.raises(ConfigError, match=f"export.{key}: .*{told}") if told else nullcontext():
            export.check_names(named, ExportConfig(**{key: "out"}))


def test_a_dataset_is_replaced_and_anything_else_is_not(voice, tmp_path):
    feature, _ = voice
    folder = tmp_path / "hf"
    export.to_huggingface([feature], CLIPS, [], str(folder))
    export.to_huggingface([feature], CLIPS[:5], [], str(folder))
    made = datasets.load_from_disk(str(folder))
    assert {split: len(rows) for split, rows in made.items()} == {"train": 5}
    assert "label" not in made["train"].features
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "tables"], "nothing is left beside it"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="holds something that is no dataset"):
        export.to_huggingface([feature], CLIPS, [], str(tmp_path / "notes"))
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"
