import numpy as np
import pytest

from mer_ray.evaluation import metrics
from mer_ray.evaluation.verdict import chance, judge


def scored(truth, predicted):
    return judge(metrics.score(np.array(truth), np.array(predicted), ("a", "b", "c")))


@pytest.mark.parametrize("support", [[10] * 6, [60, 30, 10], [1, 0, 0]])
def test_chance_is_the_better_of_a_constant_answer_and_of_many_guesses(support):
    truth = np.repeat(np.arange(len(support)), np.array(support) * 1000)
    always = metrics.waf(truth, np.full(len(truth), np.argmax(support)))
    guessed = metrics.waf(truth, np.random.default_rng(0).permutation(truth))
    assert chance(support) == pytest.approx(max(always, guessed), abs=0.01)


def test_of_six_even_classes_a_constant_answer_gets_4_8_and_a_guess_16_7():
    truth = np.arange(60) % 6
    assert metrics.waf(truth, np.zeros(60, dtype=np.int64)) == pytest.approx(0.0476, abs=1e-4)
    assert chance([10] * 6) == pytest.approx(0.1667, abs=1e-4)


def test_what_counts_is_the_lower_end_of_the_interval():
    """Of three clips in four right on ten clips one cannot tell, on a thousand one can."""
    truth, predicted = [0, 0, 0, 1] * 3, [0, 0, 1, 1] * 3
    few, many = scored(truth, predicted), scored(truth * 100, predicted * 100)
    assert few.waf == pytest.approx(many.waf)
    assert few.waf > few.chance == many.chance
    assert few.interval[0] < few.chance < many.interval[0]
    assert not few.above_chance
    assert many.above_chance
    assert many.told == ""
    low, high = (f"{100 * end:.1f}" for end in few.interval)
    assert few.told == (
        f"No better than chance: on 12 clips the weighted F1 is {100 * few.waf:.1f} (95 % interval {low} to {high}), "
        f"and answering without a look at them gives {100 * few.chance:.1f}."
    )


def test_of_one_class_alone_nothing_can_be_told():
    assert not scored([1] * 9, [1] * 9).above_chance


def test_without_scores_there_is_nothing_to_judge():
    assert judge(None) is None
