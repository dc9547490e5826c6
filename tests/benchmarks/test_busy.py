"""How busy simulated GPUs are kept by what is decoded ahead of them."""

import json

import numpy as np
import pytest
from rich.console import Console

from mer_ray.benchmarks import busy


def test_the_share_of_time_asleep_is_told_by_actor():
    calls = [("a", 0.0, 1.0), ("a", 1.5, 2.0), ("b", 10.0, 12.0)]
    notes = [{"actor": actor, "start": start, "end": end, "clips": 4} for actor, start, end in calls]
    assert busy.told(notes) == {"busy": pytest.approx((0.75 + 1.0) / 2), "actors": 2, "clips_per_s": 6.0}


def test_a_sleeper_sleeps_and_notes_it(tmp_path):
    sleeper = busy.Sleeper(0.01, str(tmp_path))
    sleeper.load()
    streams = sleeper.separate([np.ones(10, np.float32)] * 3)
    assert [stream.sum() for stream in streams] == [10.0] * 3
    (note,) = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert note["end"] - note["start"] >= 0.03
    assert note["clips"] == 3


@pytest.mark.slow
def test_actors_beside_decoding_tasks_are_measured():
    settings = busy.Config(clips=32, batch_size=4, seconds_per_clip=0.2)
    (told,) = busy.run(settings, Console(quiet=True))
    assert told["actors"] in {1, 2}  # on a busy machine one may have done all before the other is there
    assert 0 < told["busy"] <= 1
