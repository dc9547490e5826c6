from collections import Counter

import numpy as np
import pytest

from mer_ray.demo.plan import CLASS_SHARES, SPLIT_SHARES, Broken, plan
from mer_ray.types import MER2024, Split


def test_plan_has_the_shares_it_promises() -> None:
    clips = plan(600, seed=0)
    assert len({clip.clip_id for clip in clips}) == 600
    splits = Counter(clip.split for clip in clips)
    for split, share in SPLIT_SHARES.items():
        assert splits[split] == round(share * 600)
        labels = Counter(clip.label for clip in clips if clip.split is split)
        assert set(labels) == set(MER2024.names)
        assert all(abs(labels[name] / splits[split] - part) < 0.03 for name, part in CLASS_SHARES.items())
    assert 0.3 < np.mean([clip.noise is not None for clip in clips]) < 0.4
    assert Counter(clip.broken for clip in clips if clip.broken).total() == 30
    assert {clip.broken for clip in clips} == {None, *Broken}


@pytest.mark.parametrize("num_clips", [24, 30, 37, 100])
def test_small_plans_have_every_class_in_every_split(num_clips: int) -> None:
    clips = plan(num_clips, seed=1)
    assert len(clips) == num_clips
    seen = Counter((clip.split, clip.label) for clip in clips)
    assert all(seen[split, name] >= 1 for split in Split for name in MER2024.names)
    assert all(seen[Split.TRAIN, name] >= 2 for name in MER2024.names)


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 24"):
        plan(23, seed=0)


def test_no_speaker_of_the_test_clips_is_labelled() -> None:
    clips = plan(600, seed=2)
    tested = {clip.speaker for clip in clips if clip.split is Split.TEST}
    assert len(tested) >= 4
    assert not tested & {clip.speaker for clip in clips if clip.split is Split.TRAIN}


def test_plan_depends_on_the_seed_alone() -> None:
    assert plan(60, 4) == plan(60, 4)
    assert plan(60, 4) != plan(60, 5)
