import made_experiment as made
import pytest

from mer_ray.errors import ConfigError, PluginError
from mer_ray.tune import space
from mer_ray.tune.space import Dimension

SETTINGS = made.settings(strategy="vote", options={"min_agree": 2})


class Lowest:
    """Draws the first choice and the lowest number of everything, and remembers what was asked."""

    def __init__(self, strategy):
        self.strategy = strategy
        self.asked = []

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return self.strategy if name == space.STRATEGY else choices[0]

    def suggest_int(self, name, low, high, *, log):
        self.asked.append(name)
        return low

    suggest_float = suggest_int


def by_key(given):
    return {one.key: one for one in space.make(SETTINGS, given).dimensions}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0.1, 0.5], Dimension("fit.dropout", low=0.1, high=0.5)),
        ({"low": 0.01, "high": 0.5, "log": True}, Dimension("fit.dropout", low=0.01, high=0.5, log=True)),
        ([0.1, 0.2, 0.5], Dimension("fit.dropout", (0.1, 0.2, 0.5))),
        ({"choices": [0.1, 0.5]}, Dimension("fit.dropout", (0.1, 0.5))),
        (0.25, Dimension("fit.dropout", (0.25,))),
        (None, None),
    ],
)
def test_what_is_given_takes_the_defaults_place_and_nothing_else(given, expected):
    nested, dotted = by_key({"fit": {"dropout": given}}), by_key({"fit.dropout": given})
    assert nested == dotted
    assert nested.get("fit.dropout") == expected
    others = {key for key in by_key({}) if key != "fit.dropout"}
    assert {key for key in nested if key != "fit.dropout"} == others


def test_the_default_space_is_what_the_search_is_for():
    options = {"mining.options.min_share", "mining.options.min_agree", "mining.options.min_probability"}
    assert set(by_key({})) == {"fit.dropout", "fit.modality_dropout", *options}, "of the config's strategy alone"
    topk = space.make(made.settings(strategy="topk"), {})
    assert {one.key for one in topk.dimensions} == {"fit.dropout", "fit.modality_dropout", "mining.options.k"}


@pytest.mark.parametrize(
    ("strategy", "has"), [("vote", {"min_share", "min_agree", "min_probability"}), ("topk", {"k"})]
)
def test_only_options_of_the_drawn_strategy_are_drawn(strategy, has):
    trial = Lowest(strategy)
    space.make(SETTINGS, {space.STRATEGY: ["vote", "topk"]}).draw(trial)
    assert {name.removeprefix("mining.options.") for name in trial.asked if "options" in name} == has
    assert trial.asked[0] == space.STRATEGY


def test_a_trials_config_is_the_shared_one_with_its_values():
    made_of = space.apply(SETTINGS, {"mining.strategy": "topk", "mining.options.k": 7, "fit.dropout": 0.4})
    assert (made_of.mining.strategy, made_of.mining.options, made_of.fit.dropout) == ("topk", {"k": 7}, 0.4)
    same = made_of.model_copy(update={"mining": SETTINGS.mining, "fit": SETTINGS.fit})
    assert same == SETTINGS, "a key that was not drawn was changed"
    assert space.apply(SETTINGS, {"fit.dropout": 0.4}).mining.options == {"min_agree": 2}


def test_a_config_with_its_own_values_is_as_it_was():
    searched = space.make(SETTINGS, {space.STRATEGY: ["vote", "topk"]})
    values = searched.given(SETTINGS)
    assert values["mining.options.min_agree"] == 2
    assert values["mining.options.min_share"] == 0.75, "an option that it does not name has its default"
    assert "mining.options.k" not in values, "an option that its strategy does not have"
    assert space.apply(SETTINGS, values) == SETTINGS
    other = space.apply(SETTINGS, {**values, "mining.options.min_share": 0.9})
    assert other.mining.options == {"min_agree": 2, "min_share": 0.9}


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Dimension("a", ("vote", None, 3)), ["vote", None, 3], ["topk", 2]),
        (Dimension("a", low=0.1, high=0.5), [0.1, 0.25, 0.5], [0.0, 0.6, None, "x", True]),
        (Dimension("a", low=1, high=5), [1, 3, 5], [0, 6, 2.5, None]),
    ],
)
def test_which_values_of_a_config_lie_in_the_space(dimension, inside, outside):
    assert all(dimension.holds(value) for value in inside)
    assert not any(dimension.holds(value) for value in outside)
    searched = space.Space((dimension,), "vote")
    assert [len(searched.holding({"a": value}).dimensions) for value in (inside[0], outside[0])] == [1, 0]
    assert searched.holding({}).dimensions == ()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fit": {"dropot": [0, 0.5]}}, "unknown key fit.dropot; did you mean 'dropout'"),
        ({"fit": {"dropout": [0.5, 1.5]}}, "fit.dropout: Input should be less than 1"),
        ({"fit": {"dropout": [0.5, 0.1]}}, "must go from a lower to a higher number"),
        ({"fit": {"learning_rate": {"low": 0, "high": 1, "log": True}}}, "with log above 0"),
        ({"fit": {"dropout": {"low": 0.1}}}, "neither"),
        ({"fit": {"dropout": []}}, "neither"),
        ({"fit": {"folds": [2, 5]}}, "only keys of fit and mining"),
        ({"data": {"root": ["a", "b"]}}, "only keys of fit and mining"),
        ({"mining": {"options": {"min_agre": [1, 3]}}}, "did you mean 'min_agree'"),
    ],
)
def test_a_space_that_no_trial_could_use_is_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        space.make(SETTINGS, given)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(PluginError, match="did you mean 'topk'"):
        space.make(SETTINGS, {"mining": {"strategy": ["vote", "topkk"]}})
