"""What a dry run makes of the few clips that it timed."""

import os

import pytest

from mer_ray.config import ExtractConfig
from mer_ray.data.storage import Store
from mer_ray.pipelines import estimate, planning
from mer_ray.types import Clip, Split


@pytest.mark.parametrize(
    ("there", "told", "used"),
    [(1, None, 1), (8, None, 8), (None, None, 1), (1, 4, 4), (8, 4, 4)],
)
def test_the_work_is_shared_by_all_cores_or_by_those_that_the_config_names(tmp_path, monkeypatch, there, told, used):
    clips = [Clip(f"c{i}", Split.UNLABELED, text="a word") for i in range(8)]
    runtime = {"num_cpus": told} if told else {}
    encoders = {"words": {"plugin": "ngrams"}}
    settings = ExtractConfig.model_validate({"data": {"layout": "manifest"}, "encoders": encoders, "runtime": runtime})
    steps = planning.plan(settings, clips, Store(str(tmp_path)))
    make = estimate._make
    monkeypatch.setattr(estimate, "_make", lambda *given: (make(*given)[0], 20.0))
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    (words,) = [one for one in estimate.estimate(steps, settings) if one.step == "words"]
    assert words.rows == 8
    assert words.seconds == pytest.approx(8 / estimate._SAMPLE * 20 / used)
