"""What is promised of storage, tables, rounds and weights in S3, on a real server."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_stages import LengthStage
from optuna.storages import JournalStorage

from mer_ray.data.storage import Stamp, Store
from mer_ray.data.table import Table, row_key
from mer_ray.encoders import hubert
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import CorruptPartError, StorageError
from mer_ray.pretrained import weights
from mer_ray.pretrained.weights import Weights
from mer_ray.rounds.state import open_rounds
from mer_ray.runtime.journal import Journal
from mer_ray.tune.journal import StoreJournal

pytestmark = [pytest.mark.s3, pytest.mark.slow]
TESTS = Path(__file__).parent.parent


def python(script: str, *arguments: str, **environment: str) -> str:
    """What a script prints in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    child_environment = {**os.environ, "PYTHONPATH": str(TESTS), **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=child_environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_and_folders_are_listed_read_and_removed(store):
    store.write("a/one.bin", b"1")
    store.write("a/one.bin", b"2")
    store.write("a/deeper/two.bin", b"")
    assert store.read("a/one.bin") == b"2"
    assert (store.files("a"), store.folders("a"), store.files("none")) == (["one.bin"], ["deeper"], [])
    assert list(store.details("a")) == ["one.bin"]
    assert list(store.details("a", deep=True)) == ["deeper/two.bin", "one.bin"]
    store.remove("a")
    store.remove("a")
    assert not store.exists("a/deeper/two.bin")
    with pytest.raises(FileNotFoundError):
        store.read("a/one.bin")


def test_stamps_are_listed_to_the_last_page_and_ranges_read_at_once(store):
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(250)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.write(f"t/{name}", name.encode()), names))
    for name in ("t/_table.json", "t/.hidden", "t/a_folder/b"):
        store.write(name, b"1")
    stamps = store.stamps("t", by_digit=True)
    assert sorted(stamps) == sorted(names)
    assert stamps[names[0]] == Stamp(64, hashlib.md5(names[0].encode()).hexdigest())
    assert store.stamps("t") == {**stamps, "_table.json": store.stamps("t")["_table.json"]}
    assert store.stamps("none") == store.stamps("none", by_digit=True) == {}
    assert (store / "t").read_ranges([(name, 3, 9) for name in names[:40]]) == [n[3:9].encode() for n in names[:40]]
    with pytest.raises(FileNotFoundError):
        store.read_ranges([(f"t/{names[0]}", 0, 1), ("t/none", 0, 1)])


def test_a_name_that_is_taken_is_never_put_again(store):
    assert store.put_if_absent("part", b"first")
    assert not store.put_if_absent("part", b"second")
    wins = []
    threads = [threading.Thread(target=lambda: wins.append(store.put_if_absent("part", b"x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wins == [False] * 8
    assert store.read("part") == b"first"


def test_what_another_process_writes_is_seen_at_once(store):
    store.write("f/mine", b"1")
    assert store.files("f") == ["mine"]
    assert not store.exists("f/theirs")
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file(store.path("f/theirs"), b"2")
    assert store.exists("f/theirs")
    assert store.files("f") == ["mine", "theirs"]


def test_moving_aside_keeps_what_was_there(store):
    store.write("x", b"1")
    to = store.move_aside("x", "_corrupt")
    store.write("x", b"2")
    again = store.move_aside("x", "_corrupt")
    assert (store.read(to), store.read(again)) == (b"1", b"2")
    assert not store.exists("x")
    store.move_aside("none", "_corrupt")
    store.write("folder/a", b"1")
    store.write("folder/b/c", b"2")
    store.write("folder", b"3")
    to = store.move_aside("folder", "_corrupt")
    assert (store.read(f"{to}/a"), store.read(f"{to}/b/c"), store.read("folder")) == (b"1", b"2", b"3")
    assert store.files("folder") == []


def test_an_opened_object_reads_any_range(store):
    store.write("o", bytes(range(100)))
    with store.open("o") as file:
        file.seek(-10, io.SEEK_END)
        assert file.read(4) == bytes(range(90, 94))
        file.seek(3)
        assert file.read() == bytes(range(3, 100))
        assert file.read(5) == b""


def test_the_journal_of_a_search_is_kept_read_and_mended(store):
    def study():
        storage = JournalStorage(StoreJournal(store))
        sampler = optuna.samplers.RandomSampler(seed=0)
        return optuna.create_study(storage=storage, study_name="s", sampler=sampler, load_if_exists=True)

    study().optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    before = study().trials
    assert [trial.value for trial in before] == [trial.params["x"] for trial in before]
    trial = study().ask()
    last = store.files()[-1]
    store.write(last, store.read(last)[:20])
    assert [one.number for one in study().trials] == [0, 1], "the entry of the third trial was damaged"
    assert len(store.files("damaged")) == 1
    again = study().ask()
    assert again.number == trial.number
    assert study().trials[:2] == before


def test_a_missing_bucket_is_a_storage_error(bucket):
    with pytest.raises(StorageError, match="Make the bucket"):
        Store("s3://mer-ray-test-none/x").write("a", b"1")


REFUSED = """
import pickle, sys
from mer_ray.data.storage import Store
from mer_ray.errors import StorageError
store = Store(sys.argv[1])
acts = dict(read=lambda: store.read("a"), write=lambda: store.write("a", b"2"), files=lambda: store.files(),
            put=lambda: store.put_if_absent("b", b"2"), exists=lambda: store.exists("a"),
            move=lambda: store.move("a", "c"), details=lambda: store.details(),
            deep=lambda: store.details(deep=True), remove=lambda: store.remove("a"))
for name, act in acts.items():
    try:
        act()
    except StorageError as error:
        assert "same command again" in str(error) and "wrong" not in str(error), error
        print(name, "refused")
"""


def test_wrong_credentials_are_a_storage_error_at_once(store):
    store.write("a", b"1")
    told = python(REFUSED, store.root, AWS_SECRET_ACCESS_KEY="wrong")
    acts = ["read", "write", "files", "put", "exists", "move", "details", "deep", "remove"]
    assert told.splitlines() == [f"{act} refused" for act in acts]
    assert store.read("a") == b"1"


def rows(ids: list[str]) -> pa.Table:
    return pa.table({"clip_id": ids, "present": [True] * len(ids), "letters": list(range(len(ids)))})


def table_in(store: Store) -> tuple[Table, LengthStage]:
    stage = LengthStage(Path())
    return Table(store / "tables", stage.name, stage.schema, stage.spec), stage


def commit(table: Table, stage: LengthStage, ids: list[str]) -> bool:
    made = stage.rows_to_table([{"clip_id": c, "present": True, "letters": len(c)} for c in ids])
    return table.commit(made, [row_key(c) for c in ids], {}) is not None


def test_a_table_is_committed_once_and_a_truncated_part_is_made_again(store):
    table, stage = table_in(store)
    first, second = ["a", "bb"], ["ccc"]
    assert [commit(table, stage, ids) for ids in (first, second, first)] == [True, True, False]
    keys = {c: row_key(c) for c in [*first, *second]}
    refs = table.index(keys)
    assert table.take([refs["ccc"], None, refs["a"]], ["letters"])["letters"].to_pylist() == [3, None, 1]
    part = refs["a"].part
    table.store.write(part, table.store.read(part)[:-20])
    told = []
    assert sorted(table.index(keys, lambda name, why: told.append(name))) == second
    assert told == [part]
    assert len(table.store.files("_corrupt")) == 1
    assert commit(table, stage, first)
    assert sorted(table.index(keys)) == sorted(keys)


def test_a_part_altered_within_is_found_out_when_it_is_read(store):
    table, stage = table_in(store)
    commit(table, stage, [f"clip{i}" for i in range(50)])
    ref = table.index({"clip7": row_key("clip7")})["clip7"]
    data = bytearray(table.store.read(ref.part))
    chunk = next(
        column
        for i in range(pq.read_metadata(io.BytesIO(data)).num_columns)
        if (column := pq.read_metadata(io.BytesIO(data)).row_group(0).column(i)).path_in_schema == "letters"
    )
    data[chunk.data_page_offset + chunk.total_compressed_size - 2] ^= 0xFF
    table.store.write(ref.part, bytes(data))
    with pytest.raises(CorruptPartError, match="same command again"):
        table.take([ref])
    assert not table.store.exists(ref.part)


TAKE = """
import sys
from pathlib import Path
from faults.test_s3 import table_in
from mer_ray.data.storage import Store
from mer_ray.data.rows import RowRef
try:
    table_in(Store(sys.argv[1]))[0].take([RowRef(sys.argv[2], 0, True, None, None, int(sys.argv[3]))])
except Exception as error:
    print(type(error).__name__)
"""


def test_a_storage_that_refuses_to_be_read_is_not_taken_for_a_damaged_part(store):
    table, stage = table_in(store)
    commit(table, stage, ["a"])
    ref = table.index({"a": row_key("a")})["a"]
    told = python(TAKE, store.root, ref.part, str(ref.num_bytes), AWS_SECRET_ACCESS_KEY="wrong")
    assert told.strip() == "StorageError"
    assert table.store.exists(ref.part)


def test_the_rounds_of_another_experiment_are_moved_aside_whole(store):
    rounds, moved = open_rounds(store, "one")
    assert moved is None
    rounds.save_learner("00/a", "d", {"model": b"weights"}, {})
    assert open_rounds(store, "one")[0].load_learner("00/a", "d", ["model"]) == {"model": b"weights"}
    fresh, moved = open_rounds(store, "two")
    assert moved == "rounds.one"
    assert fresh.load_learner("00/a", "d", ["model"]) is None
    assert store.read("rounds.one/00/a/model") == b"weights"
    assert open_rounds(store, "one")[1] == "rounds.two"


MATERIALISE = """
import sys
from pathlib import Path
import made_stages
from ray import cloudpickle
cloudpickle.register_pickle_by_value(made_stages)
from mer_ray.config import RuntimeConfig
from mer_ray.data.storage import Store
from mer_ray.data.table import Table, row_key
from mer_ray.runtime.materialise import Step, materialise
from mer_ray.runtime.session import session
from mer_ray.types import Clip, Split
stage = made_stages.LengthStage(Path(sys.argv[2]))
table = Table(Store(sys.argv[1]), stage.name, stage.schema, stage.spec)
texts = {f"c{i}": "x" * i for i in range(12)} | {"c3": "die once", "c5": "raise"}
keys = {c: row_key(c, text) for c, text in texts.items()}
step = Step(stage, table, keys, {c: Clip(c, Split.TRAIN, text=text) for c, text in texts.items()})
with session(RuntimeConfig(num_cpus=2, object_store_bytes=100 * 2**20)):
    print("made", materialise(step, {}, RuntimeConfig()).rows_made)
    print("made", materialise(step, {}, RuntimeConfig()).rows_made)
    part = table.index(keys)["c1"].part
    lost = sum(ref.part == part for ref in table.index(keys).values())
    table.store.write(part, table.store.read(part)[:100])
    print("made", materialise(step, {}, RuntimeConfig()).rows_made - lost)
"""


def test_an_encoder_takes_its_weights_from_a_bucket(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MER_RAY_CACHE", str(tmp_path))
    here = hubert.tiny()
    for path in Path(here.config.weights.source).iterdir():
        store.write(path.name, path.read_bytes())
    there = hubert.Encoder(here.config.model_copy(update={"weights": Weights(source=store.root)}))
    clip = ClipInput(audio=np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32))
    assert there.dim == here.dim
    assert not list(tmp_path.rglob("*.safetensors")), "the width needs no weights"
    np.testing.assert_array_equal(there.encode([clip])[0], here.encode([clip])[0])
    (copied,) = tmp_path.rglob("*.safetensors")
    before = copied.stat().st_mtime_ns
    weights.fetch(there.config.weights)
    assert copied.stat().st_mtime_ns == before, "copied once"
    identity = there.identity
    store.write("config.json", store.read("config.json") + b" ")
    weights.identity.cache_clear()
    assert there.identity != identity


def test_a_step_on_ray_makes_its_rows_once_whatever_dies(store, tmp_path):
    told = python(MATERIALISE, store.root, str(tmp_path)).splitlines()  # Ray tells of the worker's death in between
    assert [line for line in told if line.startswith("made ")] == ["made 12", "made 0", "made 0"]
    assert (tmp_path / "c3.died").exists(), "no worker died"
    found = {}
    table = store / "length"
    for part in [name for name in table.details(deep=True) if name.endswith(".parquet") and "_index" not in name]:
        found |= {row["clip_id"]: row for row in pq.read_table(io.BytesIO(table.read(part))).to_pylist()}
    assert sorted(found) == sorted(f"c{i}" for i in range(12))
    assert found["c5"]["error"] == "failed"
    assert found["c3"]["letters"] == len("die once")


def test_two_writers_in_a_bucket_lose_no_line_of_each_other(store):
    first, second = Journal(store), Journal(store)
    for number in range(5):
        first.event("first", number=number)
        second.event("second", number=number)
        if number == 2:
            second.gather()
    assert [event["number"] for event in first.events() if event["event"] == "first"] == list(range(5))
    first.gather()
    lines = [json.loads(line) for line in store.read("events.jsonl").splitlines()]
    assert len(lines) == 10
    assert [line["number"] for line in lines if line["event"] == "second"] == list(range(5))


def test_an_event_in_a_bucket_is_one_request(store, monkeypatch):
    journal, asked = Journal(store), []
    journal.event("before")
    for name in ("read", "write", "files", "exists"):
        given = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda *told, name=name, given=given: asked.append(name) or given(*told))
    journal.event("now")
    assert asked == ["write"]
