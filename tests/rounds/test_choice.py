import numpy as np
import pytest

from mer_ray.evaluation.metrics import waf
from mer_ray.rounds.choice import Answers, choose

N, C, FOLDS = 200, 4, 5
TRUSTED = ("round_0", "lda_em", "student", "mean")


def said(seed, right, sure=0.7):
    """Probabilities of which about ``right`` are right, and as sure as ``sure`` of each answer."""
    rng = np.random.default_rng(seed)
    truth = np.arange(N) % C
    wrong = (truth + rng.integers(1, C, size=N)) % C
    label = np.where(rng.random(N) < right, truth, wrong)
    probabilities = np.full((N, C), (1 - sure) / (C - 1))
    probabilities[np.arange(N), label] = sure
    return probabilities


def answers(**said_by):
    return Answers(
        said_by,
        {name: probabilities.argmax(axis=1) for name, probabilities in said_by.items()},
        np.arange(N) % C,
        np.arange(N) // C % FOLDS,
    )


def test_the_last_is_taken_where_nothing_speaks_against_it():
    even = {name: said(i, 0.6) for i, name in enumerate(TRUSTED)}
    assert choose(answers(**(even | {"mean": said(9, 0.7)})), TRUSTED, 0).name == "mean"


def test_a_candidate_worse_by_construction_is_not_chosen():
    bad = {name: said(i, 0.2) for i, name in enumerate(TRUSTED)}
    choice = choose(answers(**(bad | {"round_0": said(9, 0.6)})), TRUSTED, 0)
    assert choice.name == "round_0"
    assert set(choice.by_fold) == {"round_0"}
    assert choice.oof_waf == choice.judged["round_0"].oof_waf
    assert all(choice.judged[name].gain < -choice.judged[name].noise for name in TRUSTED[1:])


def test_of_those_that_learn_from_the_pool_the_one_before_is_asked_next():
    given = {"round_0": said(0, 0.5), "lda_em": said(1, 0.3), "student": said(2, 0.7), "mean": said(3, 0.2)}
    choice = choose(answers(**given), TRUSTED, 0)
    assert choice.name == "student"
    assert [name for name, judged in choice.judged.items() if judged.chosen] == ["student"]


def test_worse_in_one_respect_alone_is_no_reason():
    fewer_right_but_honest = answers(round_0=said(0, 0.55, sure=0.97), mean=said(1, 0.5, sure=0.5))
    assert choose(fewer_right_but_honest, ("round_0", "mean"), 0).name == "mean"


def test_one_that_is_not_trusted_is_judged_and_not_chosen():
    given = {name: said(i, 0.5) for i, name in enumerate(TRUSTED)} | {"linear": said(9, 0.99)}
    choice = choose(answers(**given), TRUSTED, 0)
    assert choice.judged["linear"].oof_waf > 0.9
    assert choice.name != "linear"


def test_the_clips_of_a_fold_have_no_say_in_what_answers_them():
    """In the first fold the mean is right and elsewhere wrong: that fold alone is not asked by its own clips."""
    first, truth = (np.arange(N) // C % FOLDS == 0)[:, None], np.arange(N) % C
    right, wrong = (0.9 * np.eye(C)[(truth + k) % C] + 0.025 for k in (0, 1))
    plain = said(0, 0.6)
    choice = choose(answers(round_0=plain, mean=np.where(first, right, wrong)), ("round_0", "mean"), 0)
    assert choice.by_fold == ("round_0",) * FOLDS
    turned = np.where(first, wrong, right)
    choice = choose(answers(round_0=plain, mean=turned), ("round_0", "mean"), 0)
    assert choice.by_fold == ("mean",) * FOLDS
    assert choice.oof_waf == pytest.approx(waf(truth, turned.argmax(axis=1)))
