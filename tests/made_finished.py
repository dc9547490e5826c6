"""A mining loop fitted in this process, without Ray, and what a finished job knows of it."""

import made_experiment as made

from mer_ray.pipelines.results import Run
from mer_ray.tune.controller import Controller
from mer_ray.tune.search import fit_here


def finish(experiment, run_dir, ensemble="mode", standardise="fold", valence=0.0, **mining):
    """The ``Run`` of an experiment; its ``rounds/`` are in ``run_dir``."""
    settings = made.settings(**{"rounds": 1, **mining})
    fit = settings.fit.model_copy(update={"standardise": standardise, "valence": valence, "epochs": 8})
    settings = settings.model_copy(update={"ensemble": ensemble, "fit": fit})
    controller = Controller(experiment, settings, run_dir, fit=fit_here)
    mined = controller.mine()
    return Run(settings, None, None, controller.experiment, mined, None)
