from pathlib import Path

import pytest
from made_stages import DoubleStage, LengthStage

from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.errors import MachineFault, NoMemoryFault
from mer_ray.runtime.attempts import Attempts, MemoryKill
from mer_ray.runtime.batches import Batch
from mer_ray.runtime.worker import Worker


@pytest.fixture
def made(tmp_path):
    stage = LengthStage(tmp_path)
    table = Table(Store(str(tmp_path / "tables")), stage.name, stage.schema, stage.spec)
    return stage, table, Worker(stage, table, {}, "session", max_attempts=2)


def batch_of(**texts):
    ids = tuple(texts)
    return Batch(ids, tuple(row_key(c) for c in ids), {"clip": tuple({"text": t} for t in texts.values())})


def read(table, batch):
    refs = table.index(dict(zip(batch.clip_ids, batch.keys, strict=True)))
    return {row["clip_id"]: row for row in table.take([refs[c] for c in batch.clip_ids]).to_pylist()}


def die(attempts, batch, *nodes, limit_seconds=60.0):
    """Begin a batch once on each node, and do not end it."""
    assert attempts.begin_first(batch, limit_seconds, nodes[0]) is not None
    for node in nodes[1:]:
        assert attempts.begin_first(batch, limit_seconds, node) is None
        attempts.begin(batch, limit_seconds, node)


def test_a_batch_becomes_one_part_and_its_record_goes_with_the_step(made):
    _, table, worker = made
    batch = batch_of(a="xy", b="bad")
    outcome = worker.run(batch)
    assert (len(outcome.refs), dict(outcome.errors)) == (2, {"bad_text": 1})
    rows = read(table, batch)
    assert rows["a"]["letters"] == 2
    assert (rows["b"]["present"], rows["b"]["error"], rows["b"]["letters"]) == (False, "bad_text", None)
    assert table.store.files(f"_attempts/{batch.name}") == ["first"]
    worker.attempts.clear()
    assert table.store.folders("_attempts") == []


def test_what_a_worker_tells_of_its_rows_is_what_the_table_s_index_finds(made):
    _, table, worker = made
    batch = batch_of(a="x", b="raise", c="bad", d="xx")
    keys = dict(zip(batch.clip_ids, batch.keys, strict=True))
    assert worker.run(batch).refs == table.index(keys)
    assert worker.run(batch).refs == table.index(keys), "found there"


def test_a_part_of_the_same_rows_in_another_order_that_came_first_is_what_counts(made, monkeypatch):
    stage, table, worker = made
    batch = batch_of(a="x", b="xx")
    process = stage.process

    def overtaken(inputs):
        rows = process(inputs)
        table.commit(rows.take([1, 0]), batch.keys[::-1], {})
        return rows

    monkeypatch.setattr(stage, "process", overtaken)
    told = worker.run(batch).refs
    assert told == table.index(dict(zip(batch.clip_ids, batch.keys, strict=True)))
    assert told["a"].row == 1


def test_a_part_damaged_since_is_set_aside_and_made_anew(made):
    _, table, worker = made
    batch = batch_of(a="x", b="xx")
    worker.run(batch)
    path = Path(table.store.path(batch.name))
    path.write_bytes(path.read_bytes()[:-30])
    assert len(worker.run(batch).refs) == 2
    assert [row["letters"] for row in read(table, batch).values()] == [1, 2]
    assert len(table.store.files("_corrupt")) == 1


def test_a_committed_batch_is_not_done_again(made, tmp_path):
    _, _, worker = made
    batch = batch_of(a="xy")
    worker.run(batch)
    worker.run(batch)
    assert (tmp_path / "a.tries").read_text() == "x"


def test_an_exception_quarantines_only_the_clip_at_fault(made):
    _, table, worker = made
    batch = batch_of(a="x", b="xx", c="raise", d="xxx")
    worker.run(batch)
    rows = read(table, batch)
    assert [rows[c]["letters"] for c in "abcd"] == [1, 2, None, 3]
    assert [rows[c]["error"] for c in "abcd"] == [None, None, "failed", None]


def test_a_clip_is_out_of_memory_when_it_was_so_alone_twice(made):
    _, table, worker = made
    batch = batch_of(a="x", b="xx", c="memory", d="xxx")
    for _ in range(2):
        with pytest.raises(NoMemoryFault):
            worker.run(batch)
    assert "c" not in table.index(dict(zip(batch.clip_ids, batch.keys, strict=True)))
    worker.run(batch)
    rows = read(table, batch)
    assert [rows[c]["letters"] for c in "abcd"] == [1, 2, None, 3]
    assert [rows[c]["error"] for c in "abcd"] == [None, None, "out_of_memory", None]


def test_a_machine_fault_is_raised_and_leaves_no_row_and_no_record(made):
    _, table, worker = made
    batch = batch_of(a="x", b="full once")
    with pytest.raises(MachineFault, match="No space left"):
        worker.run(batch)
    assert table.index(dict(zip(batch.clip_ids, batch.keys, strict=True))) == {}
    assert table.store.files(f"_attempts/{batch.name}") == []
    worker.run(batch)
    assert [row["error"] for row in read(table, batch).values()] == [None, None]


def test_deaths_on_a_node_that_is_gone_are_not_the_batch_s(made):
    _, table, worker = made
    batch = batch_of(a="x")
    attempts = Attempts(table.store, "session")
    die(attempts, batch.name, "gone", "gone too", "here")
    assert attempts.deaths(batch.name).count == 3
    worker.living = lambda: {"here", "new"}
    worker.run(batch)
    assert read(table, batch)["a"]["letters"] == 1


def test_of_processes_ended_for_memory_only_the_one_that_grew_and_had_most_counts(made):
    _, table, worker = made
    batch = batch_of(a="x")
    kills = {"grew": MemoryKill(9e12, True), "large": MemoryKill(1.0, True), "small": MemoryKill(9e12, False)}
    attempts = Attempts(table.store, "session")
    attempts.memory_kill = kills.get
    attempts.process = "large"
    assert attempts.begin_first(batch.name, 60.0) is not None
    for attempts.process in ("small", "large", "small"):
        attempts.begin(batch.name, 60.0)
    assert attempts.deaths(batch.name).count == 0
    for attempts.process in ("grew", "crashed"):
        attempts.begin(batch.name, 60.0)
    assert (attempts.deaths(batch.name).count, attempts.deaths(batch.name).reason) == (2, "out_of_memory")
    worker.attempts.memory_kill = kills.get
    worker.run(batch)
    assert read(table, batch)["a"]["error"] == "out_of_memory"


def test_a_batch_that_is_ended_again_and_again_for_what_others_take_is_the_machine_s_fault(made):
    _, table, worker = made
    batch = batch_of(a="x")
    worker.attempts.memory_kill = lambda process: MemoryKill(1.0, is_largest=False)
    worker.attempts.process = "small"
    die(worker.attempts, batch.name, *[""] * 17)
    with pytest.raises(MachineFault, match=r"short of memory .* 17 times.*memory_bytes"):
        worker.run(batch)
    assert table.index(dict(zip(batch.clip_ids, batch.keys, strict=True))) == {}


def test_a_batch_with_too_many_deaths_is_halved_down_to_the_killer(made, tmp_path):
    _, table, worker = made
    batch = batch_of(a="x", b="die", c="xx", d="xxx")
    attempts = Attempts(table.store, "session")
    for name in (batch.name, batch.slice(0, 2).name, batch.slice(1, 2).name):
        die(attempts, name, "", "")
    worker.run(batch)
    rows = read(table, batch)
    assert rows["b"]["error"] == "crashed"
    assert [rows[c]["letters"] for c in "acd"] == [1, 2, 3]
    assert not (tmp_path / "b.tries").exists(), "the killer was run again"


def test_a_halved_batch_is_never_done_whole_again(made, tmp_path):
    _, table, worker = made
    batch = batch_of(a="x", b="raise")
    worker.run(batch)
    worker.run(batch)
    assert len(read(table, batch)) == 2
    assert len(table.store.stamps(by_digit=True)) == 2
    assert (tmp_path / "a.tries").read_text() == "xx", "once in the batch that failed, once alone, and not again"


def test_attempts_of_a_killed_driver_are_forgiven_a_few_times(made):
    _, table, _ = made
    die(Attempts(table.store, "one"), "batch", "")
    for session in ("two", "three"):
        assert Attempts(table.store, session).begin_first("batch", 60.0) is None
        Attempts(table.store, session).begin("batch", 60.0)
    assert Attempts(table.store, "four").deaths("batch").count == 0
    Attempts(table.store, "four").begin("batch", 60.0)
    assert Attempts(table.store, "four").deaths("batch").count == 1
    assert Attempts(table.store, "five").deaths("batch").count == 1


def test_a_death_past_the_limit_is_a_timeout(made):
    _, table, worker = made
    batch = batch_of(a="hang")
    die(worker.attempts, batch.name, "", "", limit_seconds=-1.0)
    worker.run(batch)
    assert read(table, batch)["a"]["error"] == "timeout"


def test_attempts_that_the_machine_failed_are_not_the_batch_s(made):
    """As in a storm of a bucket, in which no record could be removed."""
    _, table, worker = made
    batch = batch_of(a="x")
    die(worker.attempts, batch.name, "", "")
    worker.run(batch, faults=2)
    assert read(table, batch)["a"]["letters"] == 1


def test_a_record_that_an_older_version_left_counts(made):
    _, table, worker = made
    batch = batch_of(a="x")
    die(worker.attempts, batch.name, "")
    table.store.write(f"_attempts/{batch.name}/session.1", b'{"node": "", "deadline": 1.0}')
    assert worker.attempts.deaths(batch.name).count == 2


def test_a_stage_reads_upstream_rows_and_sees_null_where_there_is_none(made):
    _, table, worker = made
    batch = batch_of(a="xy", b="bad", c="xyz")
    worker.run(batch)
    refs = table.index(dict(zip(batch.clip_ids, batch.keys, strict=True)))
    stage = DoubleStage()
    below = Table(Store(table.store.path("../..")), stage.name, stage.schema, stage.spec, reads=[table])
    clips = ("c", "b", "new", "a")
    inputs = {"length": tuple(refs.get(c) for c in clips)}
    downstream = Batch(clips, tuple(row_key(c) for c in clips), inputs)
    Worker(stage, below, {"length": table}, "session", 2).run(downstream)
    rows = read(below, downstream)
    assert {c: rows[c]["doubled"] for c in clips} == {"c": 6, "b": None, "new": None, "a": 4}
    assert rows["b"]["error"] is None, "an upstream error is recorded where it happened, and only there"
