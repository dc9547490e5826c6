"""Sound and faces of a clip are made by one visit; what it leaves, and whom to blame, is for the steps."""

import os
from collections import Counter

import in_process
import numpy as np
import pyarrow.parquet as pq
import pytest
from media_samples import talking_face, voice, write_media
from rich.console import Console

from mer_ray.config import ExtractConfig
from mer_ray.data.media import Decoder
from mer_ray.data.storage import Store
from mer_ray.errors import MachineFault
from mer_ray.pipelines import features, planning
from mer_ray.runtime import materialise, nodes
from mer_ray.runtime.journal import Journal
from mer_ray.runtime.sight import Place, Sight
from mer_ray.stages.visit import MediaVisit
from mer_ray.types import Clip, Split

NAMES = ("good", "also", "mute", "blind", "broken")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    frames = talking_face((160, 120), 20)
    write_media(folder / "good.mp4", voice(0.8), frames)
    write_media(folder / "also.mp4", voice(0.9), frames)
    write_media(folder / "mute.mp4", None, frames)
    write_media(folder / "blind.mp4", voice(1.0))
    (folder / "broken.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    return [Clip(name, Split.UNLABELED, video=f"{folder}/{name}.mp4") for name in NAMES]


@pytest.fixture
def command(clips, tmp_path, monkeypatch):
    """Extracts as a command would; gives its tables, the events of them, and what was asked of decoders."""
    in_process.without_ray(monkeypatch)
    monkeypatch.setattr(materialise, "_FIRST_WAIT_SECONDS", 0.01)
    (tmp_path / "run").mkdir()
    asked, exchange = Counter(), Decoder._exchange

    def counted(self, request):
        asked[request["kind"]] += 1
        return exchange(self, request)

    monkeypatch.setattr(Decoder, "_exchange", counted)

    def run(tables="tables", wanted=clips):
        asked.clear()
        encoders = {"loud": {"plugin": "logmel"}, "shape": {"plugin": "hog"}}
        settings = ExtractConfig.model_validate({"encoders": encoders, "run": {"dir": str(tmp_path / "run")}})
        steps = planning.plan(settings, wanted, Store(str(tmp_path / tables)))[:2]
        journal = Journal(Store(str(tmp_path / "run")))
        before = len(journal.events())
        made = features.run(steps, settings, journal, Console(quiet=True))
        done = {event["step"]: event for event in journal.events()[before:] if event["event"] == "step_done"}
        return made, done, Counter(asked)

    return run


def rows(made):
    """By table and clip, as a stranger would read them; fails on a doubled clip."""
    found = {}
    for name, one in made.items():
        table = pq.read_table(one.table.store.root)
        assert sorted(table["clip_id"].to_pylist()) == sorted(NAMES)
        found[name] = {row["clip_id"]: row for row in table.to_pylist()}
    return found


def test_both_tables_are_made_by_one_visit_and_told_of_as_two_steps(command):
    made, done, asked = command()
    assert asked == {"both": len(NAMES)}, "each file was opened once"
    assert {name: event["clips"] for name, event in done.items()} == {"audio": 5, "faces": 5}
    assert {name: event["errors"] for name, event in done.items()} == {
        name: dict(Counter(row["error"] for row in table.values() if row["error"]))
        for name, table in rows(made).items()
    }
    present = {name: {c for c in NAMES if one.refs[c].present} for name, one in made.items()}
    assert present == {"audio": {"good", "also", "blind"}, "faces": {"good", "also", "mute"}}
    for one in made.values():
        assert one.table.store.folders("_attempts") == []
        assert one.table.store.exists("_table.json")
    assert command()[2] == {}, "nothing is left to do"


def test_the_rows_are_those_of_the_steps_alone(command, monkeypatch):
    visited = rows(command()[0])
    monkeypatch.setattr(features._Makers, "_visit", lambda self: {})
    made, _, asked = command("alone")
    assert asked == {"audio": len(NAMES), "frames": len(NAMES)}
    assert rows(made) == visited


def test_clips_that_one_table_has_are_not_visited(command, clips, monkeypatch):
    with monkeypatch.context() as changes:
        changes.setattr(features._Makers, "_visit", lambda self: {})
        command(wanted=clips[:2])
    made, done, asked = command()
    assert asked == {"both": 3}
    assert {name: event["clips"] for name, event in done.items()} == {"audio": 3, "faces": 3}
    assert rows(made).keys() == {"audio", "faces"}


def test_a_damaged_part_that_a_visit_comes_upon_is_named_and_made_again(command, tmp_path):
    made, _, _ = command()
    table = made["faces"].table
    table.store.write(min(table.parts()), b"no longer one")
    command()
    told = [event for event in Journal(Store(str(tmp_path / "run"))).events() if event["event"] == "corrupt_part"]
    assert [event["step"] for event in told] == ["faces"]
    assert "truncated or altered" in told[0]["detail"]


def test_what_a_visit_cannot_make_is_left_to_the_steps(command, monkeypatch):
    def fall_over(self, prepared):
        raise RuntimeError("both fell over")

    monkeypatch.setattr(MediaVisit, "process", fall_over)
    made, done, _ = command()
    assert {name: event["clips"] for name, event in done.items()} == {"audio": 5, "faces": 5}
    assert {row["error"] for table in rows(made).values() for row in table.values()} == {None, "forbidden_format"}


def test_a_visit_that_killed_its_worker_is_not_made_again(command, clips, monkeypatch):
    """As a record that nobody ended tells."""
    prepare, begun = MediaVisit.prepare, []

    def killed(self, batch):
        begun.append(len(batch))
        os._exit(1)

    monkeypatch.setattr(MediaVisit, "prepare", killed)
    if (child := os.fork()) == 0:
        command()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    monkeypatch.setattr(MediaVisit, "prepare", lambda self, batch: begun.append(len(batch)) or prepare(self, batch))
    made, _, asked = command()
    assert (begun, asked) == ([], {"audio": 5, "frames": 5})
    assert {row["error"] for table in rows(made).values() for row in table.values()} == {None, "forbidden_format"}


def test_a_worker_that_visits_looks_for_what_either_step_needs(command, tmp_path, monkeypatch):
    gone = Place(str(tmp_path / "gone.mp4"), "put it there")
    monkeypatch.setattr(nodes, "ask", lambda *asked: Sight(steps={"faces": (gone,)}))
    with pytest.raises(MachineFault, match=r"gone\.mp4 is not seen there .*: put it there"):
        command()


def test_what_the_machine_does_to_a_visit_blames_nobody_and_is_tried_again(command, monkeypatch):
    process, faults = MediaVisit.process, []

    def full(self, prepared):
        if len(faults) < 2:
            faults.append(prepared)
            raise MachineFault("no space left")
        return process(self, prepared)

    monkeypatch.setattr(MediaVisit, "process", full)
    made, done, asked = command()
    assert len(faults) == 2
    assert asked == {"both": 3 * len(NAMES)}
    assert {name: event["clips"] for name, event in done.items()} == {"audio": 5, "faces": 5}
    assert rows(made)["faces"]["good"]["error"] is None
