import pytest
from rich.console import Console

from mer_ray.benchmarks import tasks


@pytest.mark.slow
def test_it_trains_each_case_and_scores_new_speakers():
    shipped = tasks.Config().cases
    settings = tasks.Config(
        clips=60, epochs=2, workers=1, cases={name: shipped[name] for name in ("visual_alignment", "vit_single_frames")}
    )
    *_, told = tasks.run(settings, Console(quiet=True))
    classes, alignment = told["cases"]["vit_single_frames"], told["cases"]["visual_alignment"]
    assert len(classes["loss"]) == len(alignment["loss"]) == 2
    assert 0 <= classes["test"] <= 1
    assert alignment["test"] is None
    assert 0.15 < classes["chance"] < 0.25
    assert told["features"].keys() == {"raw", "aligned"}
