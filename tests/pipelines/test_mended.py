"""A part that is found damaged when it is read is made again by the same command, which then goes on."""

import os
from pathlib import Path

import in_process
import pytest
from made_stages import DoubleTranscriptStage, TranscriptStage
from rich.console import Console

from mer_ray.config import ExtractConfig
from mer_ray.data.storage import Store
from mer_ray.errors import CorruptPartError
from mer_ray.pipelines import features, planning
from mer_ray.runtime.journal import Journal
from mer_ray.types import Clip, Split

CLIPS = [Clip(name, Split.TRAIN, text="x" * count) for count, name in enumerate("abcdefgh", start=1)]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Reads the doubled lengths, with the tables that this needs; gives them and the events."""
    in_process.without_ray(monkeypatch)
    monkeypatch.setattr(
        planning, "_stages", lambda settings, noise: [TranscriptStage(tmp_path), DoubleTranscriptStage()][: stages[0]]
    )
    (tmp_path / "run").mkdir()
    stages = [2]

    def doubled(made):
        refs = made["double"].refs
        return made["double"].table.take([refs[clip.clip_id] for clip in CLIPS], ["doubled"])["doubled"].to_pylist()

    def run(upto=2, reader=doubled):
        stages[0] = upto
        settings = ExtractConfig()
        steps = planning.plan(settings, CLIPS, Store(str(tmp_path / "tables")))
        journal = Journal(Store(str(tmp_path / "run")))
        found = features.read(steps, settings, journal, Console(quiet=True), reader)
        return steps, found, [event for event in journal.events() if event["event"] == "corrupt_part"]

    return run


def damage(table):
    """Flip a bit of the first part, and let its size and time be what they were."""
    path = Path(table.store.path(min(table.store.stamps(by_digit=True))))
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 4 :: len(data) // 8] = bytes(byte ^ 0xFF for byte in data[len(data) // 4 :: len(data) // 8])
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DOUBLED = [2 * len(clip.text) for clip in CLIPS]


def test_a_damaged_part_that_a_step_reads_is_made_again(command, tmp_path):
    steps, _, _ = command(upto=1, reader=dict)
    damage(steps[0].table)
    steps, found, told = command()
    assert found == DOUBLED
    assert [event["step"] for event in told] == ["transcript"]
    assert "truncated or altered" in told[0]["detail"]
    assert len(steps[0].table.store.files("_corrupt")) == 1
    tries = {clip.clip_id: len((tmp_path / f"{clip.clip_id}.tries").read_text()) for clip in CLIPS}
    assert sorted(tries.values()) == [1, 1, 1, 1, 2, 2, 2, 2], "the rows of one part"


def test_a_damaged_part_that_is_read_in_the_end_is_made_again(command):
    steps, _, _ = command()
    damage(steps[1].table)
    _, found, told = command()
    assert (found, [event["step"] for event in told]) == (DOUBLED, ["double"])
    assert command()[1] == DOUBLED


def test_a_disk_that_damages_all_ends_the_run(command):
    def reader(made):
        raise CorruptPartError("again", "double")

    with pytest.raises(CorruptPartError, match="again"):
        command(reader=reader)
    with pytest.raises(CorruptPartError, match="of another"):
        command(reader=lambda made: (_ for _ in ()).throw(CorruptPartError("of another", "unknown")))
