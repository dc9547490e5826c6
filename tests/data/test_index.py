"""The cache of what parts hold: it spares their reading, and never hides what became of them."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from data.test_table import SCHEMA, commit, keys

from mer_ray.data.index import NAME, Index
from mer_ray.data.rows import Ids, Keys, Refs, RowRef, column_of
from mer_ray.data.storage import Stamp, Store
from mer_ray.data.table import Table
from mer_ray.errors import StorageError


@pytest.fixture
def table(tmp_path):
    return Table(Store(str(tmp_path)), "step", SCHEMA, {"version": 1})


@pytest.fixture
def opened(table, monkeypatch):
    """The parts that are opened."""
    parts, read = [], table._read_keys
    monkeypatch.setattr(table, "_read_keys", lambda part, num_bytes: parts.append(part) or read(part, num_bytes))
    return parts


def test_a_part_is_opened_once_however_often_its_rows_are_looked_for(table, opened):
    commit(table, ["a", "b"])
    commit(table, ["c"])
    first = table.index(keys("abc"))
    assert len(opened) == 2
    assert table.index(keys("abc")) == first
    assert len(opened) == 2
    commit(table, ["d"])
    assert sorted(table.index(keys("abcd"))) == ["a", "b", "c", "d"]
    assert len(opened) == 3, "the new one alone"


def test_who_made_parts_writes_down_what_they_hold(table, opened):
    refs = Refs(Ids("abc"))
    refs.put(commit(table, ["a", "b"]))
    refs.put(commit(table, ["c"]))
    table.remember(keys("abc"), refs)
    assert table.index(keys("abc")) == refs
    assert opened == []
    stored = pq.read_table(table.store.path(NAME)).to_pylist()
    assert [part["part"] for part in stored] == sorted(part["part"] for part in stored)
    told = {part["part"]: (part["clip_id"], part["num_bytes"]) for part in stored}
    assert told == {
        refs["a"].part: (["a", "b"], os.path.getsize(table.store.path(refs["a"].part))),
        refs["c"].part: (["c"], os.path.getsize(table.store.path(refs["c"].part))),
    }


@pytest.mark.parametrize("harm", ["lost", "empty", "flipped", "of another version"])
def test_lost_or_damaged_it_is_made_anew(table, opened, harm):
    commit(table, ["a", "b"])
    first = table.index(keys("ab"))
    path = Path(table.store.path(NAME))
    data = bytearray(path.read_bytes())
    if harm == "lost":
        path.unlink()
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "flipped":
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(data)
    else:
        pq.write_table(pq.read_table(path).drop_columns(["detail"]), path)
    assert table.index(keys("ab")) == first
    assert len(opened) == 2
    assert table.index(keys("ab")) == first
    assert len(opened) == 2, "it was written again"


def test_a_part_that_differs_from_what_was_written_down_is_opened(table, opened):
    commit(table, ["a", "b"])
    ref = table.index(keys("ab"))["a"]
    path = Path(table.store.path(ref.part))
    path.write_bytes(path.read_bytes()[:-9])
    told = []
    assert table.index(keys("ab"), lambda part, why: told.append(part)) == {}
    assert told == [ref.part]
    assert table.index(keys("ab")) == {}
    assert len(opened) == 2


def test_a_part_that_is_gone_is_forgotten(table):
    commit(table, ["a"])
    commit(table, ["b"])
    part = table.index(keys("ab"))["a"].part
    table.store.remove(part)
    assert sorted(table.index(keys("ab"))) == ["b"]
    assert Index.read(table.store).parts["part"].to_pylist() == list(table.store.stamps(by_digit=True))


def test_a_row_in_error_is_told_of_with_its_reason_and_hidden_by_an_earlier_part(table):
    refs = Refs(Ids("ab"))
    wrong, right = RowRef("2.parquet", 0, False, "crashed", "why", 5), RowRef("2.parquet", 1, True, None, None, 5)
    refs.put({"a": wrong, "b": right})
    stamps = dict.fromkeys(("1.parquet", "2.parquet"), Stamp(5, "tag"))
    index = Index().with_rows(stamps, Keys.of(keys("ab")), refs)
    assert index.refs(Keys.of(keys("ab"))) == refs
    assert index.refs(Keys.of(keys("ba"))).errors == {1: ("crashed", "why")}
    good = Refs(Ids("a"))
    good.put({"a": RowRef("1.parquet", 0, True, None, None, 5)})
    both = index.with_rows(stamps, Keys.of(keys("a")), good).refs(Keys.of(keys("ab")))
    assert (both["a"].part, both["a"].error, both["b"].part) == ("1.parquet", None, "2.parquet")


def test_a_part_that_does_not_have_the_size_it_was_made_with_is_not_written_down(table):
    refs = Refs(Ids("a"))
    refs.put(commit(table, ["a"]))
    path = Path(table.store.path(refs["a"].part))
    path.write_bytes(path.read_bytes() + b"x")
    table.remember(keys("a"), refs)
    assert Index.read(table.store).names() == set()


def test_a_million_rows_are_written_down_and_found():
    number, size = 1_000_000, 500
    ids = Ids(f"c{i}" for i in range(number))
    every, refs = Keys(ids, column_of((f"{i:024d}" for i in range(number)), number)), Refs(ids)
    parts = [f"{part:032x}.parquet" for part in range(number // size)]
    for part in parts:
        refs.part_place(part, 5)
    refs.part[:] = np.arange(number) // size
    refs.row[:] = np.arange(number) % size
    refs.present[:] = True
    index = Index().with_rows(dict.fromkeys(parts, Stamp(5, "tag")), every, refs)
    found = index.refs(every)
    assert np.array_equal(found.part, refs.part)
    assert np.array_equal(found.row, refs.row)
    assert found.at(number - 1) == refs.at(number - 1)


def test_a_dry_run_writes_nothing(table):
    commit(table, ["a"])
    assert sorted(table.index(keys("a"), touch=False)) == ["a"]
    assert not table.store.exists(NAME)


def test_rows_of_another_key_or_of_other_clips_are_not_found(table):
    commit(table, ["a", "b"])
    assert table.index({"a": "another", "c": keys("a")["a"]}) == {}
    assert sorted(table.index(keys("b"))) == ["b"], "and a and b stay in the index"
    assert sorted(table.index(keys("ab"))) == ["a", "b"]


def test_a_folder_that_cannot_be_written_is_read_all_the_same(table, monkeypatch):
    commit(table, ["a"])

    def refuse(store, name, data):
        raise StorageError(f"{name}: read only")

    monkeypatch.setattr(Store, "write", refuse)
    assert sorted(table.index(keys("a"))) == ["a"]
