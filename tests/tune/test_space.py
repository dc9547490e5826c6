import made_experiment as made
import pytest

from mer_ray.classifiers import lda_em
from mer_ray.config import LearnerConfig, PluginConfig
from mer_ray.errors import ConfigError, PluginError
from mer_ray.tune import candidates, space
from mer_ray.tune.space import Dimension

SETTINGS = made.settings(strategy="vote", options={"min_agree": 2})


AUTO = made.settings(strategy="auto").model_copy(update={"learners": "auto"})
READER = LearnerConfig(name="reader", features=["voice"], model=PluginConfig(name="lda_em", options={"steps": 2}))
PUPIL = LearnerConfig(name="pupil", features=["voice"], teacher="reader", teacher_weight=0.5)
LINEAR = LearnerConfig(name="one", features=["voice"], model=PluginConfig(name="linear"))
OF_LISTED = {"learners.reader.model.options.shrink", "learners.reader.model.options.pool_weight"}


def listing(*learners, strategy="auto"):
    return made.settings(strategy=strategy).model_copy(update={"learners": list(learners)})


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
    ("settings", "expected"),
    [
        (AUTO, {"fit.dropout", "fit.modality_dropout", *(f"mining.options.{name}" for name in space.POOL)}),
        (
            listing(*made.learners()[:1], READER, PUPIL),
            {"fit.dropout", "fit.modality_dropout", "learners.pupil.teacher_weight", *OF_LISTED},
        ),
        (listing(READER, strategy="topk"), {"mining.options.k", *OF_LISTED}),
        (listing(LINEAR), {f"mining.options.{name}" for name in space.POOL}),
        (listing(LINEAR, READER), OF_LISTED),
    ],
    ids=["all of auto", "listed", "no network", "auto makes who reads the pool", "no network, listed"],
)
def test_what_learns_from_the_pool_is_searched_where_there_is_such_a_learner(settings, expected):
    assert {one.key for one in space.make(settings, {}).dimensions} == expected


def test_what_auto_is_told_is_what_its_learners_have_by_themselves():
    own, reader = candidates.Options(), lda_em.Config(dims=(1,), num_classes=2, num_folds=2)
    assert (own.shrink, own.pool_weight) == (reader.shrink, reader.pool_weight)
    assert own.teacher_weight == LearnerConfig(name="student", features=["voice"]).teacher_weight


def test_a_listed_learner_is_searched_by_its_name():
    settings = listing(*made.learners()[:1], READER, PUPIL)
    values = space.make(settings, {}).given(settings)
    assert values["learners.reader.model.options.shrink"] == 0.4, "an option that it does not name has its default"
    assert values["learners.pupil.teacher_weight"] == 0.5
    assert space.apply(settings, values) == settings
    chosen = {"learners.reader.model.options.shrink": 0.7, "learners.pupil.teacher_weight": 0.1}
    network, reader, pupil = space.apply(settings, {**values, **chosen}).learners
    assert network == settings.learners[0]
    assert reader.model.options == {"steps": 2, "shrink": 0.7}
    assert pupil == PUPIL.model_copy(update={"teacher_weight": 0.1})


def test_options_of_auto_go_with_auto_alone():
    searched = space.make(AUTO, {space.STRATEGY: ["auto", "vote"]})
    for strategy, has in (("auto", set(space.POOL)), ("vote", {"min_share", "min_agree", "min_probability"})):
        trial = Lowest(strategy)
        searched.draw(trial)
        assert {name.removeprefix("mining.options.") for name in trial.asked if "options" in name} == has
    made_of = space.apply(AUTO, {"mining.options.shrink": 0.6})
    assert made_of.mining.options == {"shrink": 0.6}
    assert space.apply(AUTO, searched.given(AUTO)) == AUTO
    assert space.apply(made_of, {space.STRATEGY: "vote"}).mining.options == {}


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
        ({"learners": {"reader": {"teacher_weight": [0.1, 1]}}}, "no learner 'reader' is listed; there are: all, no_"),
        ({"learners": {"all": {"top": [1, 3]}}}, "only keys of fit and mining and a listed learner's"),
        ({"learners": {"all": {"model": {"options": {"shrink": [0.1, 1]}}}}}, "model fusion has no options"),
    ],
)
def test_a_space_that_no_trial_could_use_is_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        space.make(SETTINGS, given)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(PluginError, match="did you mean 'topk'"):
        space.make(SETTINGS, {"mining": {"strategy": ["vote", "topkk"]}})


def test_options_of_auto_are_refused_beside_listed_learners_and_where_they_are_wrong():
    with pytest.raises(ConfigError, match="give those that you list their own"):
        space.make(listing(*made.learners()[:1], READER), {"mining": {"options": {"shrink": [0.1, 0.5]}}})
    with pytest.raises(ConfigError, match=r"mining.auto.shrnk; did you mean 'shrink'"):
        space.make(AUTO, {"mining": {"options": {"shrnk": [0.1, 0.5]}}})
    with pytest.raises(ConfigError, match="no learner 'reader' is listed; there are: none"):
        space.make(AUTO, {"learners": {"reader": {"teacher_weight": [0.1, 1]}}})
