"""The jobs as a user runs them, but in the test's own process and without Ray: for tests of what comes of a command.

What Ray adds is held by ``tests/faults``, ``tests/runtime``, ``tests/tune`` and ``tests/e2e``.
"""

import runpy
import sys
from unittest.mock import patch

import pytest

from mer_ray import config
from mer_ray.runtime import materialise, session
from mer_ray.runtime.stream import Done
from mer_ray.tune import controller
from mer_ray.tune.search import fit_here


def run(job, *arguments):
    """``python jobs/<job>.py`` with these arguments; the exit code."""
    with pytest.MonkeyPatch.context() as changes:
        without_ray(changes)
        return main(job, *arguments)


def main(job, *arguments):
    """As ``run``, on the Ray that this process has."""
    script = str(config.REPOSITORY / "jobs" / f"{job}.py")
    with patch.object(sys, "argv", [script, *map(str, arguments)]), pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    return ended.value.code


def without_ray(changes):
    """Start no Ray: the batches of a step and the learners of a round are worked on here, one after another."""
    changes.setattr(session, "_connect", lambda runtime, held_bytes: None)
    changes.setattr(session, "_store_sizes", list)
    changes.setattr(materialise, "stream", stream)
    changes.setattr(controller, "run", fit_here)


def stream(worker, work, batches, stall_seconds, avoided, together):
    """What an actor would do with each batch; see ``runtime.stream``."""
    all_batches = work.batches()
    for number, faults in batches.items():
        outcome = worker.run(all_batches[number], faults=faults)
        yield Done(number, outcome.refs, outcome.errors, num_bytes=outcome.num_bytes, beside=outcome.beside)
