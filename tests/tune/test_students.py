"""Learners that are taught the pool by another learner."""

import made_experiment as made
import numpy as np
import pytest
from made_mining import brief, mine

from mer_ray.config import PluginConfig
from mer_ray.learners import learner as learners
from mer_ray.learners import training
from mer_ray.tune.trials import Trial


def settings(rounds=0, **options):
    """A student, a plain network and their teacher, which comes last."""
    given = brief(made.settings(rounds=rounds, **options))
    student, plain, teacher, _ = given.learners
    student = student.model_copy(update={"name": "student", "teacher": "teacher", "teacher_weight": 0.4})
    teacher = teacher.model_copy(update={"name": "teacher", "model": PluginConfig(name="lda_em")})
    return given.model_copy(update={"learners": [student, plain, teacher]})


def watched(monkeypatch, trials):
    """Keeps the trials that a controller is to fit."""

    def change(controller):
        fit = controller.fit
        monkeypatch.setattr(
            controller, "fit", lambda bench, given, told: trials.extend(given) or fit(bench, given, told)
        )

    return change


@pytest.fixture
def short(monkeypatch):
    """Students of few steps."""
    monkeypatch.setattr(learners, "_STUDENT_STEPS", 20)


@pytest.mark.usefixtures("here", "short")
def test_a_student_learns_what_the_teachers_model_of_the_fold_says_of_its_pool(tmp_path, monkeypatch):
    experiment, _ = made.make()
    experiment = made.replace(experiment, speakers=tuple(f"s{i % 10}" for i in range(len(experiment.labels))))
    trials: list[Trial] = []
    done = mine(tmp_path, experiment, settings(rounds=1, strategy="vote"), watched(monkeypatch, trials))
    assert [trial.folder for trial in trials] == [
        f"0{r}/{n}" for r in (0, 1) for n in ("no_voice", "teacher", "student")
    ]
    assert set(done.mined.last.learners) == {"student", "no_voice", "teacher"}
    pools, adopted = done.controller.committee.pools[0], 0
    for number in (0, 1):
        said = done.predictions(number, "teacher").probabilities_FNC
        student = next(trial for trial in trials if trial.folder == f"0{number}/student")
        own = done.mined.rounds[number].trained_on
        for fold, rows in enumerate(student.folds):
            mine_ = own.of(fold, 0)
            adopted += len(mine_)
            expected = np.setdiff1d(np.flatnonzero(pools[fold] & ~np.isnan(said[fold, :, 0])), mine_.clip)
            np.testing.assert_array_equal(rows.pseudo_clip, [*mine_.clip, *expected])
            np.testing.assert_array_equal(rows.pseudo_target[len(mine_) :], said[fold, expected])
            assert (rows.pseudo_weight[len(mine_) :] == np.float32(0.4)).all()
            assert not len(rows.pool)
    assert adopted > 0


@pytest.mark.usefixtures("here", "short")
def test_fits_made_to_choose_how_to_standardise_are_not_made_again(tmp_path):
    experiment, _ = made.make(num_pool=60, num_test=10)
    given = settings()
    auto = given.model_copy(update={"fit": given.fit.model_copy(update={"standardise": "auto"})})
    done = mine(tmp_path, experiment, auto)
    assert sorted(done.fits) == ["00/no_voice", "00/student", "00/teacher"]
    again = mine(tmp_path, experiment, auto)
    assert again.fits == []
    np.testing.assert_array_equal(again.mined.final.probabilities, done.mined.final.probabilities)


@pytest.mark.usefixtures("here")
def test_a_student_takes_600_steps_and_smooths_its_labels_less(tmp_path, monkeypatch):
    experiment, _ = made.make(num_pool=60, num_test=10)
    steps, told, epoch, fit_folds = [], [], training.Batches.epoch, learners.fit_folds

    def counted(batches, folds):
        for batch in epoch(batches, folds):
            steps.append(batch)
            yield batch

    def watched_fit(features, folds, fusion, model_config, fit, *others):
        steps.clear()
        models = fit_folds(features, folds, fusion, model_config, fit, *others)
        told.append((len(steps), fit.label_smoothing))
        return models

    monkeypatch.setattr(training.Batches, "epoch", counted)
    monkeypatch.setattr(learners, "fit_folds", watched_fit)
    given = settings()
    mine(tmp_path, experiment, given)
    plain, student = told
    assert student == (600, 0.05)
    assert plain[0] < 100
    assert plain[1] == given.fit.label_smoothing > 0.05
