"""Which errors of the workers end training at once, and which are left to another attempt."""

import pytest
from ray.train import WorkerGroupError

from mer_ray.errors import CorruptPartError, LearnerError, StorageError
from mer_ray.train.job import Refusal, own_error

LOST = RuntimeError("the worker died")


@pytest.mark.parametrize("error", [LearnerError("the loss became nan"), CorruptPartError("of another model")])
def test_what_would_be_met_again_ends_it(error):
    with pytest.raises(type(error), match=str(error)):
        Refusal().after_exception(None, {0: error, 1: error})


@pytest.mark.parametrize(
    "errors", [{}, {1: LOST}, {0: StorageError("throttled")}, {0: LearnerError("collateral"), 1: LOST}]
)
def test_a_lost_worker_and_a_lost_disk_are_left_to_another_attempt(errors):
    Refusal().after_exception(None, errors)


def test_an_error_is_found_inside_what_wraps_it():
    own = LearnerError("clip a is too long")
    wrapped = RuntimeError("in a task")
    wrapped.__cause__ = own
    assert own_error(WorkerGroupError("all failed", {1: wrapped})) is own
    assert own_error(WorkerGroupError("all failed", {0: LOST})) is None
