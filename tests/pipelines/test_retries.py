"""``tables.retry_errors``: rows in error are made anew, and what reads them, and no others."""

from dataclasses import replace

import made_stages
import pytest
from made_stages import DoubleTranscriptStage, TranscriptStage
from ray import cloudpickle
from rich.console import Console

from mer_ray.config import ExtractConfig
from mer_ray.data.storage import Store
from mer_ray.pipelines import features, planning
from mer_ray.runtime.journal import Journal
from mer_ray.types import Clip, Split

cloudpickle.register_pickle_by_value(made_stages)
TEXTS = {"a": "x", "b": "bad once", "c": "bad", "d": "raise", "e": "xx"}


@pytest.fixture
def command(ray_cluster, tmp_path, monkeypatch):
    """Extracts as a command with these reasons to retry would; gives the tables, and how many rows each had made."""
    stages = [TranscriptStage(tmp_path), DoubleTranscriptStage()]
    monkeypatch.setattr(planning, "_stages", lambda settings, noise: stages)
    clips = [Clip(name, Split.TRAIN, text=text) for name, text in TEXTS.items()]
    tables = Store(str(tmp_path / "tables"))

    (tmp_path / "run").mkdir()

    def run(again=()):
        settings = ExtractConfig(tables={"retry_errors": again})
        steps = planning.plan(settings, clips, tables)
        journal = Journal(Store(str(tmp_path / "run")))
        made = features.run(steps, settings, journal, Console(quiet=True))
        return steps, made, {name: one.rows_made for name, one in made.items()}

    return run


def tries(folder):
    return {name: len((folder / f"{name}.tries").read_text()) for name in TEXTS}


def errors(made):
    return {clip_id: ref.error for clip_id, ref in made["transcript"].refs.items() if ref.error}


def doubled(made):
    names = sorted(made["double"].refs)
    rows = made["double"].table.take([made["double"].refs[name] for name in names], ["doubled"])
    return dict(zip(names, rows["doubled"].to_pylist(), strict=True))


def test_only_what_is_asked_for_is_made_anew_and_the_good_row_stays(command, tmp_path):
    steps, made, rows = command()
    assert rows == {"transcript": 5, "double": 5}
    assert errors(made) == {"b": "bad_text", "c": "bad_text", "d": "failed"}
    assert doubled(made) == {"a": 2, "b": None, "c": None, "d": None, "e": 4}
    digests = [step.table.digest for step in steps]

    assert command()[2] == {"transcript": 0, "double": 0}, "without being asked nothing is"

    tried = tries(tmp_path)
    steps, made, rows = command(["bad_text"])
    assert rows == {"transcript": 2, "double": 2}, "those in error for it, and what reads them"
    assert [step.table.digest for step in steps] == digests
    assert errors(made) == {"c": "bad_text", "d": "failed"}
    assert doubled(made) == {"a": 2, "b": 16, "c": None, "d": None, "e": 4}
    more = {name: count - tried[name] for name, count in tries(tmp_path).items()}
    assert more == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 0}

    _, made, rows = command()
    assert rows == {"transcript": 0, "double": 0}, "once per command"
    assert doubled(made)["b"] == 16, "the row in error came back"

    _, made, rows = command("all")
    assert rows == {"transcript": 2, "double": 2}
    assert errors(made) == {"c": "bad_text", "d": "failed"}


def test_a_plan_alone_writes_nothing(command):
    command()
    steps = command()[0]
    first = replace(steps[0], retries=steps[0].retries.again(steps[0].table, steps[0].keys, "all"))
    assert len(first.retries.new) == 3
    assert first.table.store.files("_retries") == []
