"""The jobs as a user runs them, but in the test's own process and without Ray: for tests of what comes of a command.

What Ray adds is held by ``tests/faults``, ``tests/runtime``, ``tests/tune`` and ``tests/e2e``.
"""

import pickle
import runpy
import sys

import pytest

from mer_ray import config
from mer_ray.runtime import materialise, session
from mer_ray.tune import controller
from mer_ray.tune.search import fit_here


def run(job, *arguments):
    """``python jobs/<job>.py`` with these arguments; the exit code."""
    script = str(config.REPOSITORY / "jobs" / f"{job}.py")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
    return ended.value.code


def without_ray(patch):
    """Start no Ray: the batches of a step and the learners of a round are worked on here, one after another."""
    patch.setattr(session, "_connect", lambda runtime: None)
    patch.setattr(materialise, "_stream", stream)
    patch.setattr(controller, "run", fit_here)


def stream(worker, batches):
    """What an actor would do with each batch; see ``materialise._stream``."""
    for batch in batches:
        outcome = worker.run(batch)
        yield {"rows": outcome.rows, "errors": pickle.dumps(outcome.errors)}
