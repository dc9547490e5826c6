import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mer_ray.data.storage import Store
from mer_ray.data.table import Table, part_name, row_key
from mer_ray.errors import CorruptPartError
from mer_ray.stages.base import ROW_FIELDS

SCHEMA = pa.schema([*ROW_FIELDS[:2], pa.field("vector", pa.list_(pa.float32(), 3)), *ROW_FIELDS[2:]])


def rows(ids, value=0.0):
    vectors = [[value, float(i), 1.0] for i in range(len(ids))]
    return pa.Table.from_pylist(
        [{"clip_id": c, "present": True, "vector": v} for c, v in zip(ids, vectors, strict=True)], schema=SCHEMA
    )


def keys(ids):
    return {c: row_key(c) for c in ids}


@pytest.fixture
def table(tmp_path):
    return Table(Store(str(tmp_path)), "step", SCHEMA, {"version": 1})


def commit(table, ids, value=0.0):
    return table.commit(rows(ids, value), [row_key(c) for c in ids], {"model": "none"})


def test_commits_and_reads_back_in_the_order_asked(table):
    commit(table, ["a", "b"])
    commit(table, ["c"], value=5.0)
    refs = table.index(keys("abc"))
    got = table.take([refs["c"], None, refs["b"]], ["clip_id", "vector"])
    assert got.to_pylist() == [
        {"clip_id": "c", "vector": [5.0, 0.0, 1.0]},
        {"clip_id": None, "vector": None},
        {"clip_id": "b", "vector": [0.0, 1.0, 1.0]},
    ]


def test_of_no_rows_there_are_none(table):
    """As in a run of clips without any sound."""
    assert table.take([], ["clip_id"]).to_pylist() == []


def test_take_finds_rows_across_row_groups(tmp_path):
    schema = pa.schema([*ROW_FIELDS[:2], pa.field("blob", pa.binary()), *ROW_FIELDS[2:]])
    table = Table(Store(str(tmp_path)), "blobs", schema, {})
    ids = [f"c{i}" for i in range(12)]
    blobs = [os.urandom(1_500_000) for _ in ids]
    made = [{"clip_id": c, "present": True, "blob": b} for c, b in zip(ids, blobs, strict=True)]
    table.commit(pa.Table.from_pylist(made, schema=schema), [row_key(c) for c in ids], {})
    part = table.store.path(table.store.files()[0])
    assert pq.ParquetFile(part).num_row_groups > 3
    refs = table.index(keys(ids))
    for wanted in ([11, 0, 5], [3], list(range(12))):
        assert table.take([refs[ids[i]] for i in wanted], ["blob"])["blob"].to_pylist() == [blobs[i] for i in wanted]


def test_the_same_rows_are_one_part_whoever_commits_them(table):
    assert commit(table, ["a", "b"]) == table.index(keys("ab"))
    assert commit(table, ["a", "b"], value=9.0) is None
    assert part_name(["a", "b"], ["1", "2"]) == part_name(["b", "a"], ["2", "1"])


def test_a_clip_in_two_parts_is_read_once(table):
    commit(table, ["a", "b"], value=1.0)
    commit(table, ["b", "c"], value=2.0)
    refs = table.index(keys("abc"))
    assert sorted(refs) == ["a", "b", "c"]
    first = min(part for part in table.store.files() if part.endswith(".parquet"))
    assert refs["b"].part == first


def test_a_changed_input_hides_the_old_row(table):
    commit(table, ["a"])
    assert table.index({"a": row_key("a", "changed")}) == {}


def test_removed_clips_are_ignored(table):
    commit(table, ["a", "b"])
    assert sorted(table.index(keys("a"))) == ["a"]


def test_config_and_upstream_change_the_digest(tmp_path, table):
    store = Store(str(tmp_path))
    other = Table(store, "step", SCHEMA, {"version": 2})
    below = Table(store, "next", SCHEMA, {"version": 1}, reads=[table])
    below_other = Table(store, "next", SCHEMA, {"version": 1}, reads=[other])
    assert len({table.digest, other.digest, below.digest, below_other.digest}) == 4


def test_a_plain_parquet_reader_of_the_folder_sees_the_rows(table):
    table.describe()
    commit(table, ["a", "b"])
    table.store.write("_attempts/x/y", b"1")
    assert pq.read_table(table.store.root)["clip_id"].to_pylist() == ["a", "b"]
    assert json.loads(table.store.read("_table.json"))["step"] == "step"


def test_parts_carry_where_they_come_from(table):
    commit(table, ["a"])
    part = next(name for name in table.store.files() if name.endswith(".parquet"))
    told = json.loads(pq.read_schema(table.store.path(part)).metadata[b"mer_ray"])
    assert told["model"] == "none"
    assert told["digest"] == table.digest
    assert told["mer_ray"]


@pytest.mark.parametrize("harm", ["truncated", "empty", "flipped", "foreign"])
def test_a_harmed_part_is_named_moved_aside_and_its_rows_are_missing(table, harm):
    commit(table, ["a", "b"])
    commit(table, ["c"])
    part = part_name(["a", "b"], [row_key("a"), row_key("b")])
    path = table.store.path(part)
    data = bytearray(Path(path).read_bytes())
    if harm == "truncated":
        data = data[: len(data) // 2]
    elif harm == "empty":
        data = bytearray()
    elif harm == "flipped":
        at = data.index(b"\x00\x00\x80?\x00\x00\x80?") if b"\x00\x00\x80?\x00\x00\x80?" in data else 60
        data[at] ^= 0x10
    else:
        pq.write_table(pa.table({"clip_id": ["a"]}), path)
        data = bytearray(Path(path).read_bytes())
    Path(path).write_bytes(data)
    told = []
    refs = table.index(keys("abc"), lambda name, why: told.append((name, why)))
    assert sorted(refs) == ["c"]
    assert [name for name, _ in told] == [part]
    assert not table.store.exists(part)
    assert len(table.store.files("_corrupt")) == 1


def test_every_flipped_byte_of_a_vector_column_is_detected(table):
    commit(table, ["a", "b"])
    part = table.store.files()[0]
    path = table.store.path(part)
    original = Path(path).read_bytes()
    metadata = pq.read_metadata(path).row_group(0).column(3)
    assert metadata.path_in_schema.startswith("vector")
    start = metadata.data_page_offset
    for at in range(start, start + metadata.total_compressed_size):
        harmed = bytearray(original)
        harmed[at] ^= 0x01
        Path(path).write_bytes(harmed)
        told = []
        table.index(keys("ab"), lambda name, why, told=told: told.append(name))
        if not told:
            refs = {}
            refs = table.index(keys("ab"))
            read = table.take([refs["a"], refs["b"]], ["vector"])["vector"].to_pylist()
            assert read == [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]], f"byte {at} changed the vectors unseen"
        Path(path).write_bytes(original)


def test_a_part_that_rots_after_the_index_is_found_when_read(table):
    commit(table, ["a", "b"])
    refs = table.index(keys("ab"))
    path = table.store.path(refs["a"].part)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[:50])
    with pytest.raises(CorruptPartError, match="same command again"):
        table.take([refs["a"]])
    assert table.index(keys("ab")) == {}
