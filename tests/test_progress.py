import pytest
from made_clips import clips, training

from mer_ray import progress, registry
from mer_ray.config import FitConfig
from mer_ray.learners.fit import fit_fold


def fit():
    features, labels = clips()
    options = {"dims": (6, 5, 4), "num_classes": 3, "hidden": 12}
    config = registry.configure("fusion", "attention", options)
    settings = FitConfig(epochs=3, batch_size=16, hidden=12)
    return fit_fold(features, training(range(20, 90), labels), "attention", config, settings, 0)


def test_a_fit_says_how_far_it_is():
    told = []
    with progress.heard(lambda share, what: told.append((share, what))):
        fit()
    shares, words = zip(*told, strict=True)
    assert list(shares) == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] < 1
    assert list(dict.fromkeys(words)) == ["epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"]


def test_a_listener_that_fails_loses_no_fit_and_is_asked_no_more():
    asked = []

    def refuse(share, what):
        asked.append(what)
        raise OSError("the driver is gone")

    with progress.heard(refuse):
        told = fit().state_dict()
    alone = fit().state_dict()
    assert len(asked) == 1
    assert all(told[name].equal(alone[name]) for name in alone)


def test_it_is_heard_at_most_so_often_and_not_behind_the_block():
    told = []
    with progress.heard(lambda share, what: told.append(what), seconds=60.0):
        progress.tell(0.0, "first")
        progress.tell(0.5, "second")
    progress.tell(1.0, "third")
    assert told == ["first"]
    with pytest.raises(KeyboardInterrupt), progress.heard(lambda share, what: (_ for _ in ()).throw(KeyboardInterrupt)):
        progress.tell(0.0, "stopped by hand")
