"""How much is asked of S3, counted on the way to a real server, and what is done when it fails."""

import io
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from faults.conftest import free_ports
from made_stages import DoubleStage
from made_steps import step_of
from media_samples import voice
from s3_proxy import Proxy
from s3fs import S3FileSystem

from mer_ray.config import MediaConfig
from mer_ray.data.media import Decoder
from mer_ray.data.rows import Keys, Refs
from mer_ray.data.storage import Store
from mer_ray.data.table import Table
from mer_ray.errors import ClipError, StorageError, machine_fault
from mer_ray.runtime.batches import Work
from mer_ray.runtime.worker import Worker

pytestmark = [pytest.mark.s3, pytest.mark.slow]


def test_what_each_act_asks_for(proxy, behind, store, tmp_path):
    store.write("f/a", bytes(1000))
    ranges = [("f/a", 0, 9)] * 3
    asked = {
        "read": (lambda: behind.read("f/a"), {"GET": 1}),
        "is there": (lambda: behind.exists("f/a"), {"HEAD": 1}),
        "is not there": (lambda: behind.exists("f/none"), {"HEAD": 1}),
        "files": (lambda: behind.files("f"), {"GET": 1}),
        "files of none": (lambda: behind.files("none"), {"GET": 1}),
        "stamps": (lambda: behind.stamps("f"), {"GET": 1}),
        "stamps by digit": (lambda: behind.stamps("f", by_digit=True), {"GET": 16}),
        "details": (lambda: behind.details(deep=True), {"GET": 1}),
        "ranges": (lambda: behind.read_ranges(ranges), {"GET": 3}),
        "download": (lambda: behind.download("f/a", str(tmp_path / "a")), {"GET": 1}),
        "part of a file": (lambda: behind.open("f/a", 1000).read(10), {"GET": 1}),
        "of a file of unknown size": (lambda: behind.open("f/a").read(10), {"HEAD": 1, "GET": 1}),
        "write": (lambda: behind.write("f/b", b"1"), {"PUT": 1}),
        "put": (lambda: behind.put_if_absent("f/c", b"1"), {"PUT": 1}),
        "put again": (lambda: behind.put_if_absent("f/c", b"1"), {"PUT": 1}),
        "unlink": (lambda: behind.unlink("f/c"), {"DELETE": 1}),
        "remove": (lambda: behind.remove("f"), {"GET": 1, "POST": 1}),
    }
    counted = {}
    for name, (act, _) in asked.items():
        proxy.asked.clear()
        act()
        counted[name] = dict(proxy.count())
    assert counted == {name: requests for name, (_, requests) in asked.items()}


def test_a_small_file_of_parquet_costs_its_footer_and_its_columns(proxy, behind):
    sink = io.BytesIO()
    pq.write_table(pa.table({name: list(range(1000)) for name in "abc"}), sink)
    behind.write("t.parquet", sink.getvalue())
    proxy.asked.clear()
    with behind.open("t.parquet", len(sink.getvalue())) as file:
        assert pq.ParquetFile(file, pre_buffer=True).read(["a", "b"]).num_rows == 1000
    assert proxy.count() == {"GET": 2}


def test_a_media_object_costs_one_get(proxy, behind):
    sink = io.BytesIO()
    soundfile.write(sink, voice(1.0), 16_000, format="WAV")
    behind.write("clip.wav", sink.getvalue())
    behind.write("empty.wav", b"")
    limits = MediaConfig()
    with Decoder(limits) as decoder, Decoder(limits.model_copy(update={"max_bytes": 1000})) as narrow:
        proxy.asked.clear()
        samples = decoder.audio(behind.path("clip.wav"))
        assert samples is not None
        assert len(samples) == 16_000
        for one, name, reason in [
            (decoder, "empty", "empty_file"),
            (narrow, "clip", "too_large"),
            (decoder, "none", "missing_file"),
        ]:
            with pytest.raises(ClipError, match=reason):
                one.audio(behind.path(f"{name}.wav"))
    assert Counter(proxy.asked) == {
        ("GET", f"/{behind.path('clip.wav').removeprefix('s3://')}"): 2,
        ("GET", f"/{behind.path('empty.wav').removeprefix('s3://')}"): 1,
        ("GET", f"/{behind.path('none.wav').removeprefix('s3://')}"): 1,
    }


def test_an_undisturbed_batch_costs_its_record_its_part_and_the_parts_that_it_reads(proxy, behind, tmp_path):
    step = step_of(tmp_path, {f"c{i}": "x" * i for i in range(8)}, behind)
    keys, table = Keys.of(step.keys), step.table
    work = Work(keys, Refs(keys.ids), 4, ("clip",), step.clips, {})
    worker, refs = Worker(step.stage, table, {}, "session", 2), Refs(keys.ids)
    worker.setup()
    for batch in work.batches():
        proxy.asked.clear()
        refs.put(worker.run(batch).refs)
        assert proxy.count() == {"PUT": 2}
    stage = DoubleStage()
    below = Table(behind, stage.name, stage.schema, stage.spec, [table])
    reader = Worker(stage, below, {"length": table}, "session", 2)
    reader.setup()
    for batch in Work(keys, Refs(keys.ids), 4, ("length",), {}, {"length": refs}).batches():
        proxy.asked.clear()
        reader.run(batch)
        assert proxy.count() == {"PUT": 2, "GET": 1}


def test_a_table_with_nothing_to_do_costs_a_listing_and_one_read(proxy, behind, tmp_path):
    step = step_of(tmp_path, {f"c{i}": "x" for i in range(12)}, behind)
    refs = Refs(Keys.of(step.keys).ids)
    for batch in Work(Keys.of(step.keys), refs, 4, ("clip",), step.clips, {}).batches():
        refs.put(Worker(step.stage, step.table, {}, "session", 2).run(batch).refs)
    proxy.asked.clear()
    assert len(step.table.index(step.keys)) == 12
    assert proxy.count() == {"GET": 16 + 1 + 3, "PUT": 1}, "who made them wrote nothing down: each part is read once"
    proxy.asked.clear()
    assert len(step.table.index(step.keys)) == 12
    assert proxy.count() == {"GET": 16 + 1}, "a listing for each digit, and the index"


def test_a_storm_of_ten_seconds_is_ridden_out(proxy, behind, tmp_path):
    for i in range(40):
        behind.write(f"f{i}", bytes([i]) * 100)
    storm = proxy.fail(503, seconds_from_now=10)
    acts = {
        "read": lambda: behind.read("f1"),
        "put": lambda: behind.put_if_absent("new", b"1"),
        "files": lambda: len(behind.files()) >= 40,
        "ranges": lambda: behind.read_ranges([(f"f{i}", 0, 1) for i in range(40)]),
        "download": lambda: behind.download("f2", str(tmp_path / "f2")),
    }
    began = time.monotonic()
    with ThreadPoolExecutor(len(acts)) as pool:
        told = dict(zip(acts, pool.map(lambda act: act(), acts.values()), strict=True))
    assert time.monotonic() - began > 10
    assert storm.hits >= len(acts)
    assert told == {
        "read": b"\1" * 100,
        "put": True,
        "files": True,
        "ranges": [bytes([i]) for i in range(40)],
        "download": None,
    }
    assert (tmp_path / "f2").read_bytes() == b"\2" * 100


def test_a_server_that_is_away_for_twenty_seconds_is_waited_for(store, monkeypatch):
    store.write("a", b"1")
    proxy = Proxy(os.environ["AWS_ENDPOINT_URL"], free_ports())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    S3FileSystem.clear_instance_cache()
    came, done = threading.Event(), threading.Event()

    def come_late():
        time.sleep(20)
        with proxy.serving():
            came.set()
            done.wait()

    thread = threading.Thread(target=come_late)
    thread.start()
    try:
        assert Store(store.root).read("a") == b"1"
        assert came.is_set(), "it was not away"
    finally:
        done.set()
        thread.join()
        S3FileSystem.clear_instance_cache()


def test_a_refusal_is_told_at_once(proxy, behind):
    behind.write("a", b"1")
    fault = proxy.fail(403)
    acts = [
        lambda: behind.read("a"),
        lambda: behind.write("a", b"2"),
        lambda: behind.put_if_absent("b", b"2"),
        behind.files,
        lambda: behind.read_ranges([("a", 0, 1)]),
        lambda: behind.unlink("a"),
    ]
    began = time.monotonic()
    for act in acts:
        with pytest.raises(StorageError, match="same command again"):
            act()
    assert fault.hits == len(acts), "it was tried again"
    assert time.monotonic() - began < 10
    proxy.heal()
    assert behind.read("a") == b"1"


def test_an_answer_that_breaks_off_is_asked_for_again(proxy, behind, tmp_path):
    data = os.urandom(200_000)
    behind.write("a", data)
    for act in (
        lambda: behind.read("a"),
        lambda: behind.read_ranges([("a", 0, len(data))])[0],
        lambda: behind.open("a", len(data)).read(),
        lambda: behind.download("a", str(tmp_path / "a")) or (tmp_path / "a").read_bytes(),
    ):
        fault = proxy.fail("cut", "GET", times=2)
        assert act() == data
        assert fault.hits == 2
    proxy.fail("cut", "GET")
    with pytest.raises(StorageError):
        behind.download("a", str(tmp_path / "a"))
    with pytest.raises(Exception, match="not completed") as caught:
        behind.open("a", len(data)).read()
    assert isinstance(machine_fault(caught.value), StorageError)
