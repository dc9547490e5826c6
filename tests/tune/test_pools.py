"""Where folds are grouped by speaker, nothing of a held-out speaker teaches a fold, by whatever path."""

import json
from collections.abc import Sequence

import made_experiment as made
import numpy as np
import pytest
from made_mining import brief, mine

from mer_ray.config import PluginConfig
from mer_ray.learners import folds
from mer_ray.mining import base
from mer_ray.tune.committee import Committee

SPEAKERS = 10


def spoken(**sizes):
    """Every speaker has labelled clips, clips of the pool and test clips."""
    experiment, _ = made.make(**sizes)
    return made.replace(experiment, speakers=tuple(f"s{i % SPEAKERS}" for i in range(len(experiment.labels))))


def settings(**options):
    """Two learners: one reads the pool by itself, the other by what it adopts."""
    given = brief(made.settings(rounds=1, **options))
    first, second, *_ = given.learners
    return given.model_copy(
        update={"learners": [first, second.model_copy(update={"model": PluginConfig(name="lda_em")})]}
    )


def held_out_speakers(controller) -> Sequence[set]:
    experiment = controller.experiment
    return [
        {experiment.speakers[row] for row in experiment.labelled[controller.folds.held_out == fold]}
        for fold in range(controller.folds.num_folds)
    ]


@pytest.mark.parametrize("strategy", ["vote", "topk"])
@pytest.mark.usefixtures("here")
def test_fold_pools_and_held_out_speakers_are_disjoint_in_every_path(tmp_path, monkeypatch, strategy):
    aligned, align, trials = [], base.align, []
    monkeypatch.setattr(base, "align", lambda votes, prior: aligned.append(len(votes)) or align(votes, prior))
    experiment = spoken()
    options = {"min_agree": 2} if strategy == "vote" else {}
    done = mine(
        tmp_path,
        experiment,
        settings(strategy=strategy, options=options, prior="uniform"),
        lambda controller: monkeypatch.setattr(
            controller,
            "fit",
            lambda bench, given, told, fit=controller.fit: trials.extend(given) or fit(bench, given, told),
        ),
    )
    held_out, speakers = held_out_speakers(done.controller), np.array(experiment.speakers)
    assert done.controller.folds.grouped
    assert done.controller.folds.warnings == ()
    taught = {"pool": 0, "adopted": 0}
    for trial in trials:
        for names, rows in zip([*held_out, set()], trial.folds, strict=True):
            for what, clips in (("pool", rows.pool), ("adopted", rows.pseudo_clip), ("label", rows.clip)):
                assert not names & set(speakers[clips]), (trial.folder, what)
                taught[what] = taught.get(what, 0) + len(clips)
            assert not set(rows.pool) & {*rows.clip, *rows.pseudo_clip}
            if trial.learner.model.name == "lda_em":
                assert set(speakers[rows.pool]) == set(speakers) - names
            else:
                assert not len(rows.pool)
    assert taught["pool"] > 0
    assert taught["adopted"] > 0
    own = [int((experiment.pool & ~np.isin(speakers, sorted(names))).sum()) for names in [*held_out, set()]]
    assert aligned == own * 2, "both learners' votes, fold by fold, are aligned over the fold's own pool"


@pytest.mark.usefixtures("here")
def test_a_fold_whose_pool_is_emptied_is_said_and_fitted_without(tmp_path):
    experiment = spoken()
    pool = experiment.pool & (np.arange(len(experiment.pool)) % SPEAKERS == 0)
    done = mine(tmp_path, made.replace(experiment, pool=pool), settings(strategy="topk"))
    (emptied,) = [fold for fold, names in enumerate(held_out_speakers(done.controller)) if "s0" in names]
    assert f"fold {emptied} has no pool" in done.controller.folds.warnings[0]
    assert emptied not in set(done.mined.rounds[0].selected.fold.tolist())
    assert len(done.mined.rounds[0].selected)
    figures = json.loads((done.rounds / "00/metrics.json").read_text())
    assert figures["selected_by_fold"][emptied] == 0


def test_without_speakers_the_report_is_told_that_figures_may_be_too_kind():
    experiment, _ = made.make()
    cut = folds.make(experiment.labels[experiment.labelled], [None] * 60, 3, 0)
    committee = Committee(experiment, cut, made.settings().mining, "mean")
    pools, (warning,) = committee.pools
    assert (pools == experiment.pool).all()
    assert "may be too kind" in warning
