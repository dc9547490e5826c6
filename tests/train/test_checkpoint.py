"""Checkpoints are whole or not there, and never chosen when damaged."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from mer_ray.data.storage import Store
from mer_ray.errors import CorruptPartError
from mer_ray.train.checkpoint import Checkpoints, Progress
from mer_ray.train.state import Trained, from_tensors, to_tensors


def state(value=1.0):
    return [
        Trained("body.weight", {"weight": torch.full((2, 3), float(value)), "exp_avg": torch.zeros(2, 3)}),
        Trained("head.bias", {"weight": torch.full((3,), -float(value))}),
    ]


def save(checkpoints, step, **progress):
    checkpoints.save(state(step), Progress(step, **progress), 0, 1, lambda mine: [mine])


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(Store(str(tmp_path)), keep=2)


def names(checkpoints):
    return sorted(path.name for path in Path(checkpoints.folder.path()).iterdir())


def test_what_was_saved_is_read_again(checkpoints):
    row = {"epoch": 1, "loss": 0.5}
    save(checkpoints, 4, best_step=4, best_score=0.7, history=(row,))
    found = checkpoints.newest()
    assert found.progress == Progress(4, 4, 0.7, (row,))
    read = list(found.state())
    assert [part.name for part in read] == ["body.weight", "head.bias"]
    for part, expected in zip(read, state(4), strict=True):
        assert part.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            torch.testing.assert_close(part.tensors[name], tensor)


def test_parameters_come_in_one_order_however_a_file_was_read():
    tensors = to_tensors(Trained(name, {"weight": torch.ones(1), "exp_avg": torch.ones(1)}) for name in "cab")
    for order in (list(tensors), list(reversed(tensors))):
        assert [part.name for part in from_tensors({name: tensors[name] for name in order})] == ["a", "b", "c"]


def test_names_with_dots_and_colons_come_back():
    parts = [Trained("a.b:c.d", {"weight": torch.ones(1), "exp_avg": torch.zeros(1)})]
    (part,) = from_tensors(to_tensors(parts))
    assert (part.name, set(part.tensors)) == ("a.b:c.d", {"weight", "exp_avg"})


def test_two_workers_write_one_checkpoint(tmp_path):
    meet, told = Barrier(2), [None, None]

    def work(rank):
        def gather(mine):
            told[rank] = mine
            meet.wait()
            everyone = list(told)
            meet.wait()
            return everyone

        Checkpoints(Store(str(tmp_path)), 2).save(state(), Progress(1), rank, 2, gather)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    found = Checkpoints(Store(str(tmp_path)), 2).newest()
    assert len(found.files) == 2
    assert {part.name for part in found.state()} == {"body.weight", "head.bias"}


def test_one_without_its_marker_is_never_chosen_and_goes_with_the_next(checkpoints):
    save(checkpoints, 1)
    save(checkpoints, 2)
    Path(checkpoints.folder.path("00000002/complete.json")).unlink()
    assert checkpoints.newest().progress.step == 1
    save(checkpoints, 3)
    assert names(checkpoints) == ["00000001", "00000003"]


@pytest.mark.parametrize("harm", ["truncated", "altered", "missing", "marker"])
def test_a_damaged_one_is_moved_aside_and_told_of(checkpoints, harm):
    save(checkpoints, 1)
    save(checkpoints, 2)
    file = Path(checkpoints.folder.path("00000002/state-0000-0000.safetensors"))
    data = file.read_bytes()
    if harm == "truncated":
        file.write_bytes(data[:-8])
    elif harm == "altered":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "missing":
        file.unlink()
    else:
        file.with_name("complete.json").write_text(json.dumps({"files": {}}))
    told = []
    assert checkpoints.newest(lambda *news: told.append(news)).progress.step == 1
    assert [folder for folder, _ in told] == ["00000002"]
    with pytest.raises(CorruptPartError):
        checkpoints.load("00000002")


def test_the_newest_and_the_best_stay(checkpoints):
    for step in range(1, 7):
        save(checkpoints, step, best_step=min(step, 2), best_score=0.5)
    assert names(checkpoints) == ["00000002", "00000004", "00000005", "00000006"]


def test_where_there_is_none_there_is_none(checkpoints):
    assert checkpoints.newest() is None
