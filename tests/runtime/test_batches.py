from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mer_ray.data.rows import Ids, Keys, Refs, RowRef, column_of
from mer_ray.runtime import batches
from mer_ray.runtime.batches import Batch, Work
from mer_ray.types import Clip, Split


def cut(num, done, size):
    places, starts = batches.cut(np.isin(np.arange(num), list(done)), size)
    return [places[start:stop].tolist() for start, stop in pairwise(starts)]


@given(st.integers(0, 60), st.sets(st.integers(0, 59)), st.integers(1, 9))
def test_every_missing_clip_is_in_exactly_one_batch(num, done, size):
    made = cut(num, done, size)
    assert sorted(place for batch in made for place in batch) == sorted(set(range(num)) - done)
    assert all(1 <= len(batch) <= size for batch in made)


@given(st.integers(1, 60), st.integers(1, 9), st.data())
def test_a_killed_run_cuts_the_same_batches_again(num, size, data):
    first = cut(num, set(), size)
    committed = data.draw(st.sets(st.integers(0, len(first) - 1)))
    done = {place for i in committed for place in first[i]}
    assert cut(num, done, size) == [batch for i, batch in enumerate(first) if i not in committed]


def work_of(num, size, monkeypatch, chunk_rows=4096):
    """Batches that read the clip and a table that lacks every third row."""
    monkeypatch.setattr(batches, "_CHUNK_ROWS", chunk_rows)
    ids = Ids(f"c{i}" for i in range(num))
    keys, above, done = Keys(ids, column_of(map(str, range(num)), num)), Refs(ids), Refs(ids)
    above.put({f"c{i}": RowRef(f"part{i // 2}", i % 2, True, None, None, 10 + i // 2) for i in range(num) if i % 3})
    done.put({"c1": RowRef("there", 0, True, None, None, 1)})
    clips = {c: Clip(c, Split.TRAIN, text=f"said by {c}") for c in ids}
    return Work(keys, done, size, ("clip", "above"), clips, {"above": above})


def test_a_batch_in_a_chunk_is_the_clips_their_keys_and_where_their_inputs_stand(monkeypatch):
    work = work_of(11, 2, monkeypatch, chunk_rows=5)
    assert (len(work), work.num_chunks) == (6, 3)
    made = work.batches()
    assert [batch.clip_ids for batch in made] == [
        ("c2", "c3"), ("c4", "c5"), ("c6", "c7"), ("c8", "c9"), ("c10",), ("c0",)
    ]  # fmt: skip
    assert made[0].keys == ("2", "3")
    assert [one["text"] for one in made[3].inputs["clip"].to_pylist()] == ["said by c8", "said by c9"]
    above = made[3].inputs["above"]
    assert [one and (one.part, one.row, one.num_bytes) for one in above] == [("part4", 0, 14), None]


def test_halves_keep_clips_keys_and_inputs_together():
    batch = Batch(("a", "b", "c"), ("1", "2", "3"), {"clip": ("x", "y", "z")})
    left, right = batch.halves()
    assert (left.clip_ids, left.keys, left.inputs["clip"]) == (("a",), ("1",), ("x",))
    assert (right.clip_ids, right.keys, right.inputs["clip"]) == (("b", "c"), ("2", "3"), ("y", "z"))
    assert batch.name != left.name != right.name
