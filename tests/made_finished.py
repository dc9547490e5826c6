"""A mining loop fitted in this process, without Ray, and what a finished job knows of it."""

import io

import made_experiment as made
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mer_ray.pipelines import results
from mer_ray.pipelines.features import Extraction
from mer_ray.pipelines.results import Run
from mer_ray.tune.controller import Controller
from mer_ray.tune.search import fit_here


def finish(experiment, run_dir, ensemble="mode", standardise="fold", valence=0.0, learners=None, **mining):
    """The ``Run`` of an experiment, by ``made.learners()`` unless others are given; ``rounds/`` are in ``run_dir``."""
    settings = made.settings(**{"rounds": 1, **mining})
    fit = settings.fit.model_copy(update={"standardise": standardise, "valence": valence, "epochs": 8})
    listed = learners or made.learners()
    settings = settings.model_copy(update={"ensemble": ensemble, "fit": fit, "learners": listed})
    controller = Controller(experiment, settings, run_dir, fit=fit_here)
    mined = controller.mine()
    extraction = Extraction(experiment.features, "made", {}, (), frozenset())
    return Run(settings, None, extraction, controller.experiment, mined, None)


def write(run, run_dir):
    """What ``jobs/predict.py`` reads of a run directory beside ``rounds/``."""
    results.final_of(run).write(run_dir / "rounds")
    run_dir.write("config.yaml", yaml.safe_dump(run.settings.model_dump(mode="json")).encode())
    ids, splits = run.experiment.features.clip_ids, [str(split) for split in run.experiment.splits]
    pq.write_table(pa.table({"clip_id": list(ids), "split": splits}), sink := io.BytesIO())
    run_dir.write("predictions.parquet", sink.getvalue())
