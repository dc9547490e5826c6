import io
import os
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mer_ray.data import ready
from mer_ray.errors import ConfigError, FeatureFileError

CLIPS = ["a", "b", "c", "d"]
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1


def write(folder, ids, vectors, kind, name="enc"):
    """Write a feature file of one of the forms that a user may bring."""
    path = folder / f"{name}.{kind.partition('-')[0]}"
    if kind.startswith("npz"):
        ids = np.array(ids, dtype="S" if kind == "npz-bytes" else "U")
        np.savez(path, clip_id=ids, vector=np.asfortranarray(vectors) if kind == "npz-fortran" else vectors)
        return path
    value = pa.from_numpy_dtype(vectors.dtype)
    if kind == "parquet-fixed":
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    else:
        column = pa.array(list(vectors), pa.large_list(value) if kind == "parquet-large" else pa.list_(value))
    clip_id = pa.array(ids).dictionary_encode() if kind == "parquet-large" else pa.array(ids)
    pq.write_table(pa.table({"clip_id": clip_id, "vector": column}), path, row_group_size=2)
    return path


def load(folder, clips=CLIPS, **modalities):
    (found,) = ready.discover(str(folder), modalities)
    return ready.load(found, clips)


KINDS = ["parquet", "parquet-fixed", "parquet-large", "npz", "npz-bytes", "npz-fortran"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_come_in_the_manifests_order(tmp_path, kind, dtype):
    order = [2, 0, 3]
    write(
        tmp_path, [CLIPS[i] for i in order] + ["stranger"], np.vstack([VECTORS[order], VECTORS[:1]]).astype(dtype), kind
    )
    loaded = load(tmp_path)
    assert loaded.feature.present.tolist() == [True, False, True, True]
    assert loaded.feature.values.dtype == (np.float16 if dtype == np.float16 else np.float32)
    np.testing.assert_array_equal(loaded.feature.values[order], VECTORS[order].astype(dtype))
    assert loaded.num_unknown == 1
    assert loaded.quarantine == ()


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_meet_without_a_seam(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(ready, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(ready, "_PARQUET_ROWS", 7)
    ids = [f"c{i}" for i in range(500)]
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float16)
    write(tmp_path, ids, vectors, kind)
    np.testing.assert_array_equal(load(tmp_path, ids[::-1]).feature.values, vectors[::-1])


@pytest.mark.parametrize("kind", ["parquet", "parquet-fixed", "npz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_quarantined(tmp_path, kind, bad):
    vectors = VECTORS.copy()
    vectors[1, 2] = bad
    write(tmp_path, CLIPS, vectors, kind)
    loaded = load(tmp_path)
    assert loaded.feature.present.tolist() == [True, False, True, True]
    assert loaded.quarantine == ({"clip_id": "b", "step": "enc", "error": "not_finite", "detail": "1 of 3 values"},)


def test_a_double_too_large_for_a_float_is_quarantined(tmp_path):
    vectors = VECTORS.astype(np.float64)
    vectors[0, 0] = 1e300
    write(tmp_path, CLIPS, vectors, "npz")
    loaded = load(tmp_path)
    assert [row["clip_id"] for row in loaded.quarantine] == ["a"]
    assert np.isfinite(loaded.feature.values[loaded.feature.present]).all()


def test_null_vectors_are_absent_and_null_values_not_finite(tmp_path):
    column = pa.array([[1.0, 2.0], None, [None, 2.0], [3.0, 4.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"clip_id": CLIPS, "vector": column}), tmp_path / "enc.parquet")
    loaded = load(tmp_path)
    assert loaded.feature.present.tolist() == [True, False, False, True]
    assert [row["clip_id"] for row in loaded.quarantine] == ["c"]


def parquet(**columns):
    def put(folder):
        pq.write_table(pa.table(columns), folder / "enc.parquet")

    return put


def npz(**arrays):
    def put(folder):
        np.savez(folder / "enc.npz", **arrays)

    return put


def raw(name, data):
    def put(folder):
        (folder / name).write_bytes(data)

    return put


LISTS = pa.array([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (parquet(clip_id=["a", "a"], vector=LISTS), "has clip 'a' twice"),
        (parquet(clip_id=["x", "x"], vector=LISTS), "has clip 'x' twice"),
        (parquet(clip_id=["a", "b"], vector=pa.array([[1.0], [1.0, 2.0]])), "is ragged: the vector of 'b' is 2 wide"),
        (parquet(clip_id=["a", "b"], vector=pa.array([[1], [2]])), "vectors of int64; write float16 or float32"),
        (parquet(clip_id=["a", "b"], vector=pa.array([1.0, 2.0])), "vector of type double; write a list of floats"),
        (parquet(clip_id=[1, 2], vector=LISTS), "clip_id of type int64"),
        (parquet(clip_id=["a", None], vector=LISTS), "1 of them null"),
        (parquet(name=["a", "b"], vector=LISTS), "has the columns name, vector; it needs clip_id and vector"),
        (parquet(clip_id=pa.array([], pa.string()), vector=LISTS[:0]), "no vector for any clip of the manifest"),
        (parquet(clip_id=["x", "y"], vector=LISTS), "and 2 for others, for instance 'x'"),
        (parquet(clip_id=["a", "b"], vector=pa.array([[], []], pa.list_(pa.float32()))), "vectors of shape"),
        (npz(clip_id=np.array(["a", "a"]), vector=VECTORS[:2]), "has clip 'a' twice"),
        (npz(clip_id=np.array(["a", "b"], object), vector=VECTORS[:2]), "is not of its form .*Python objects"),
        (npz(clip_id=np.arange(2), vector=VECTORS[:2]), "clip_id of type int64"),
        (npz(clip_id=np.array(["a"]), vector=VECTORS[:2]), r"has 1 clip_id and vector of shape \(2, 3\)"),
        (npz(clip_id=np.array(["a", "b"]), vector=VECTORS[:2].astype(int)), "vectors of type int64"),
        (npz(clip_id=np.array(["a", "b"]), vector=np.array([[1.0], [1.0, 2.0]], object)), "vectors of type object"),
        (npz(clip_id=np.array(["a", "b"]), vector=np.zeros(2)), r"vector of shape \(2,\)"),
        (npz(clip_id=np.array(["a", "b"]), vector=np.zeros((2, 0))), r"vector of shape \(2, 0\)"),
        (npz(clip_id=np.array([], str), vector=np.zeros((0, 3))), "no vector for any clip"),
        (npz(ids=np.array(["a"]), vector=VECTORS[:1]), "lacks the array clip_id"),
        (raw("enc.npz", b""), "is truncated or is not of its form"),
        (raw("enc.npz", b"no zip"), "is truncated or is not of its form"),
        (raw("enc.parquet", b"PAR1 cut"), "is truncated or is not of its form"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path, put, reason):
    put(tmp_path)
    with pytest.raises(FeatureFileError, match=reason) as caught:
        load(tmp_path)
    assert "enc." in str(caught.value)


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_cut_or_altered_file_is_refused(tmp_path, kind):
    ids = [f"c{i}" for i in range(200)]
    path = write(tmp_path, ids, np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32), kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FeatureFileError, match="truncated"):
        load(tmp_path, ids)


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path):
    path = write(tmp_path, CLIPS, VECTORS, "npz")
    data = bytearray(path.read_bytes())
    place = bytes(data).index(VECTORS.tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(FeatureFileError, match="CRC"):
        load(tmp_path)


def test_pickles_in_an_npz_are_never_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "mark"),)

    np.savez(tmp_path / "enc.npz", clip_id=np.array(CLIPS), vector=np.array([[Evil()]] * 4, object))
    with pytest.raises(FeatureFileError):
        load(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_the_modality_is_the_name_or_what_the_user_says_or_its_own(tmp_path):
    for name in ("audio", "joint", "gaze", "pulse"):
        write(tmp_path, CLIPS, VECTORS, "npz", name)
    found = ready.discover(str(tmp_path), {"gaze": "video"})
    assert [(f.name, f.modality) for f in found] == [
        ("audio", "audio"), ("gaze", "video"), ("joint", "joint"), ("pulse", "pulse"),
    ]  # fmt: skip


def test_discovery_refuses_what_is_unclear(tmp_path):
    with pytest.raises(FeatureFileError, match="holds no features"):
        ready.discover(str(tmp_path), {})
    with pytest.raises(FeatureFileError, match="holds no features"):
        ready.discover(str(tmp_path / "nowhere"), {})
    write(tmp_path, CLIPS, VECTORS, "npz")
    with pytest.raises(ConfigError, match=r"data.modalities.ecn: no such feature .* did you mean 'enc'"):
        ready.discover(str(tmp_path), {"ecn": "audio"})
    write(tmp_path, CLIPS, VECTORS, "parquet")
    with pytest.raises(FeatureFileError, match="are both the feature 'enc'"):
        ready.discover(str(tmp_path), {})


@pytest.mark.parametrize("kind", ["parquet", "npz", "folder"])
def test_the_digest_changes_with_the_content_alone(tmp_path, kind):
    def put(scale):
        if kind == "folder":
            (tmp_path / "enc").mkdir(exist_ok=True)
            np.save(tmp_path / "enc" / "a.npy", VECTORS[0] * scale)
        else:
            write(tmp_path, CLIPS, VECTORS * scale, kind)

    put(1)
    (before,) = ready.discover(str(tmp_path), {})
    assert ready.discover(str(tmp_path), {}) == (before,)
    put(2)
    (after,) = ready.discover(str(tmp_path), {})
    assert after.digest != before.digest
    assert after.name == before.name


def test_a_stored_array_larger_than_its_header_says_is_refused(tmp_path):
    member = io.BytesIO()
    np.save(member, VECTORS)
    ids = io.BytesIO()
    np.save(ids, np.array(CLIPS))
    with zipfile.ZipFile(tmp_path / "enc.npz", "w") as archive:
        archive.writestr("clip_id.npy", ids.getvalue())
        archive.writestr("vector.npy", member.getvalue() + b"more")
    with pytest.raises(FeatureFileError, match="left over"):
        load(tmp_path)
