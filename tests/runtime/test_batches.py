from hypothesis import given
from hypothesis import strategies as st

from mer_ray.runtime.batches import Batch, cut


@given(st.integers(0, 60), st.sets(st.integers(0, 59)), st.integers(1, 9))
def test_every_missing_clip_is_in_exactly_one_batch(num, done, size):
    wanted = [f"c{i}" for i in range(num)]
    finished = {f"c{i}" for i in done}
    batches = cut(wanted, finished, size)
    assert sorted(c for batch in batches for c in batch) == sorted(set(wanted) - finished)
    assert all(1 <= len(batch) <= size for batch in batches)


@given(st.integers(1, 60), st.integers(1, 9), st.data())
def test_a_killed_run_cuts_the_same_batches_again(num, size, data):
    wanted = [f"c{i}" for i in range(num)]
    first = cut(wanted, set(), size)
    committed = data.draw(st.sets(st.integers(0, len(first) - 1)))
    done = {c for i in committed for c in first[i]}
    assert cut(wanted, done, size) == [batch for i, batch in enumerate(first) if i not in committed]


def test_halves_keep_clips_keys_and_inputs_together():
    batch = Batch(("a", "b", "c"), ("1", "2", "3"), {"clip": ("x", "y", "z")})
    left, right = batch.halves()
    assert (left.clip_ids, left.keys, left.inputs["clip"]) == (("a",), ("1",), ("x",))
    assert (right.clip_ids, right.keys, right.inputs["clip"]) == (("b", "c"), ("2", "3"), ("y", "z"))
    assert batch.name != left.name != right.name
