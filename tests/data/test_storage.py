import os
import pickle
import threading
import time

import pytest

from mer_ray.data.storage import Stamp, Store
from mer_ray.errors import ClipError, Reason, StorageError


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "root"))


def test_write_then_read_and_list(store):
    store.write("a/one.bin", b"1")
    store.write("a/one.bin", b"2")
    (store / "a").write("deeper/two.bin", b"3")
    assert store.read("a/one.bin") == b"2"
    assert store.files("a") == ["one.bin"]
    assert store.folders("a") == ["deeper"]
    assert store.exists("a/deeper/two.bin")
    assert not store.exists("a/none")


def test_listing_a_folder_that_is_not_there_is_empty(store):
    assert store.files("none") == []


def test_reading_a_missing_file_says_so(store):
    with pytest.raises(FileNotFoundError):
        store.read("none")


def test_stamps_tell_of_a_change_and_leave_out_what_is_no_plain_file(store):
    assert store.stamps("none") == {}
    names = ["0a", "ff", "_table.json", "a.parquet"]
    for name in [*names, ".hidden", "deeper/b"]:
        store.write(name, b"12")
    before = store.stamps()
    assert sorted(before) == sorted(names)
    assert sorted(store.stamps(by_digit=True)) == ["0a", "a.parquet", "ff"]
    status = os.stat(store.path("0a"))
    assert before["0a"] == Stamp(2, str(status.st_mtime_ns))
    os.utime(store.path("0a"), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    store.write("ff", b"123")
    after = store.stamps()
    assert {name for name in names if before[name] != after[name]} == {"0a", "ff"}


def test_a_file_that_goes_while_it_is_looked_at_is_left_out(store):
    store.write("a", b"")
    os.symlink(store.path("gone"), store.path("b"))
    assert list(store.stamps()) == ["a"]


def test_ranges_of_many_files_are_read_at_once(store):
    for i in range(3):
        store.write(f"f{i}", bytes(range(i, i + 20)))
    assert store.read_ranges([("f2", 0, 2), ("f0", 5, 8), ("f2", 18, 20)]) == [b"\2\3", b"\5\6\7", b"\x14\x15"]
    assert store.read_ranges([]) == []
    with pytest.raises(FileNotFoundError):
        store.read_ranges([("f0", 0, 1), ("none", 0, 1)])


def test_put_if_absent_lets_exactly_one_of_many_writers_win(store):
    wins = []

    def put(i):
        if store.put_if_absent("part", bytes([i]) * 1000):
            wins.append(i)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("part") == bytes(wins) * 1000
    assert os.listdir(store.root) == ["part"], "temporary files were left behind"


def test_move_aside_keeps_what_was_there(store):
    store.write("x", b"1")
    to = store.move_aside("x", "_corrupt")
    store.write("x", b"2")
    again = store.move_aside("x", "_corrupt")
    assert (store.read(to), store.read(again)) == (b"1", b"2")
    assert not store.exists("x")


def test_remove_of_nothing_is_quiet_and_of_a_folder_whole(store):
    store.remove("none")
    store.write("f/a", b"1")
    store.remove("f")
    assert not store.exists("f")


def test_pickles_as_its_address(store):
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_a_refusal_is_a_storage_error_at_once_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    began = time.monotonic()
    with pytest.raises(StorageError, match="same command again"):
        Store(str(tmp_path / "file")).write("x/y", b"1")
    assert time.monotonic() - began < 5, "on a disk nothing passes by waiting"


def test_a_file_is_copied_once_its_size_has_been_looked_at(store, tmp_path):
    store.write("a", b"12345")
    seen = []
    store.download("a", str(tmp_path / "copy"), seen.append)
    assert (tmp_path / "copy").read_bytes() == b"12345"
    assert set(seen) == {5}
    with pytest.raises(ClipError):
        store.download("a", str(tmp_path / "no copy"), too_large)
    assert not (tmp_path / "no copy").exists()
    with pytest.raises(FileNotFoundError):
        store.download("none", str(tmp_path / "no copy"))


def too_large(size):
    raise ClipError(Reason.TOO_LARGE, f"{size} bytes")


def test_a_file_is_unlinked_and_that_there_is_none_is_no_news(store):
    store.write("a", b"1")
    store.unlink("a")
    store.unlink("a")
    assert store.files() == []
