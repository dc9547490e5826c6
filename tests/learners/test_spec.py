from itertools import combinations_with_replacement

import pytest
from made_clips import clips, named

from mer_ray.config import FitConfig, LearnerConfig, PluginConfig
from mer_ray.errors import ConfigError, PluginError
from mer_ray.learners import spec

MODALITIES = ("audio", "video", "text", "joint", "pulse")
MANY = [
    tuple((f"f{i}", modality) for i, modality in enumerate(chosen))
    for count in range(1, 8)
    for chosen in combinations_with_replacement(MODALITIES, count)
    if count < 4 or len(set(chosen)) in {1, 2, 4}
]
FIT = FitConfig(hidden=7, dropout=0.1, modality_dropout=0.2)


def learner(name="one", features=("voice",), fusion="attention", **options):
    return LearnerConfig(name=name, features=list(features), fusion=PluginConfig(name=fusion, options=options))


def resolve(learners, features=None):
    return spec.resolve(learners, clips()[0] if features is None else features, FIT, 3)


def test_auto_makes_four_different_learners_of_whatever_there_is():
    assert {len(pairs) for pairs in MANY} == set(range(1, 8))
    for pairs in MANY:
        made = resolve("auto", named(*pairs))
        known = [name for name, _ in pairs]
        assert len(made) == 4
        assert len({one.name for one in made}) == 4
        assert len({(tuple(one.features), one.fusion.name, one.seed) for one in made}) == 4
        assert made[0].features == known
        assert made[0].name == "all"
        for one in made:
            assert set(one.features) <= set(known)
            assert [name for name in known if name in one.features] == one.features


def test_with_three_units_or_more_the_subsets_all_differ():
    for pairs in MANY:
        if len(pairs) >= 3:
            assert len({tuple(one.features) for one in resolve("auto", named(*pairs))}) == 4


def test_with_fewer_the_fusions_differ():
    for pairs in ([("f0", "audio")], [("f0", "audio"), ("f1", "text")]):
        made = resolve("auto", named(*pairs))
        assert [one.name for one in made] == ["all", "all-gated", "all-lmf", "all-attention"]
        assert [one.fusion.name for one in made] == ["concat", "gated", "lmf", "attention"]


def test_whole_modalities_are_left_out_the_joint_one_first():
    given = named(("a1", "audio"), ("v", "video"), ("a2", "audio"), ("t", "text"), ("j", "joint"))
    made = resolve("auto", given)
    expected = {
        "all": ["a1", "v", "a2", "t", "j"],
        "audio_video_text": ["a1", "v", "a2", "t"],
        "audio_video_joint": ["a1", "v", "a2", "j"],
        "video_text_joint": ["v", "t", "j"],
    }
    assert {one.name: one.features for one in made} == expected


def test_with_two_modalities_single_features_are_left_out():
    made = resolve("auto", named(("a1", "audio"), ("a2", "audio"), ("v", "video")))
    assert [one.features for one in made] == [["a1", "a2", "v"], ["a2", "v"], ["a1", "v"], ["a1", "a2"]]
    assert [one.name for one in made] == ["all", "a2_v", "a1_v", "a1_a2"]


@pytest.mark.parametrize(
    "names",
    [
        ("mel_40", "mel40", "hog"),
        ("mel 40", "mel/40", "mel40", "hog"),
        ("声音", "脸", "文字"),
        ("x" * 60, "y" * 60, "z"),
        ("a", "subset1", "b", "subset2"),
    ],
)
def test_awkward_names_still_make_four_learners(names):
    made = resolve("auto", named(*((name, "audio") for name in names)))
    assert len({one.name for one in made}) == 4
    assert len({tuple(one.features) for one in made}) == 4


def test_learners_of_ones_own_are_taken_as_they_are():
    own = [learner("one", ["words", "voice"]), learner("two", ["face"], "concat")]
    assert resolve(own) == own


@pytest.mark.parametrize(
    ("learners", "message"),
    [
        ([], "list is empty"),
        ([learner("same"), learner("same", ["face"])], "names must differ.*same, same"),
        ([learner(features=["vioce"])], "no feature 'vioce'; did you mean 'voice'.*voice, face, words"),
        ([learner(features=["voice", "face", "voice"])], "named twice"),
        ([learner(hiden=3)], "hiden.*did you mean 'hidden'"),
    ],
)
def test_learners_that_cannot_be_are_refused_with_the_reason(learners, message):
    with pytest.raises(ConfigError, match=message):
        resolve(learners)


def test_an_unknown_fusion_model_is_refused_with_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'attention'"):
        resolve([learner(fusion="atention")])


def test_no_features_at_all_are_refused():
    with pytest.raises(ConfigError, match="no features to learn from"):
        resolve("auto", named())


def test_the_fusion_config_has_the_data_the_fit_and_before_them_the_learners_own_options():
    given, _ = clips()
    config = spec.fusion_config(learner(features=["words", "voice"], hidden=9), given, FIT, 3)
    assert config.dims == (4, 6)
    assert config.num_classes == 3
    assert (config.hidden, config.dropout, config.modality_dropout) == (9, 0.1, 0.2)


def classifier(name="lda_em", features=("voice",), **options):
    return LearnerConfig(name="one", features=list(features), model=PluginConfig(name=name, options=options))


def test_a_learner_may_be_a_classifier_and_its_config_has_the_data():
    own = [classifier(features=("words", "voice"), shrink=0.3)]
    assert resolve(own) == own
    config = spec.classifier_config(own[0], clips()[0], 3, 5)
    assert (config.dims, config.num_classes, config.num_folds, config.shrink) == ((4, 6), 3, 5, 0.3)
    assert [spec.reads_pool(one) for one in (own[0], classifier("linear"), learner())] == [True, False, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (classifier("lda"), "learner one: no model 'lda'.*did you mean 'lda_em'"),
        (classifier(shrnk=0.1), "shrnk.*did you mean 'shrink'"),
        (classifier(shrink=2), "lda_em.shrink"),
        (classifier(dims=(3,)), "told by the data"),
        (classifier("fusion", hidden=3), "model fusion has no options.*hidden"),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_there_are_features(given, message):
    with pytest.raises(ConfigError, match=message):
        spec.check([given], FIT)


def test_valence_needs_a_network():
    asked = FIT.model_copy(update={"valence": 1.0})
    with pytest.raises(ConfigError, match="no learner is of model fusion"):
        spec.check([classifier(), classifier("linear")], asked)
    spec.check([classifier(), learner()], asked)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("two", "its teacher two does not read the pool"),
        ("one", "its teacher one does not read the pool"),
        ("tree", "no teacher 'tree'; did you mean 'three'"),
        ("plain", "its teacher plain does not read the pool"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(teacher, message):
    others = [learner("two").model_copy(update={"teacher": "three"}), classifier().model_copy(update={"name": "three"})]
    others.append(classifier("linear").model_copy(update={"name": "plain"}))
    spec.check([learner().model_copy(update={"teacher": "three"}), *others], FIT)
    with pytest.raises(ConfigError, match=message):
        spec.check([learner().model_copy(update={"teacher": teacher}), *others], FIT)
    with pytest.raises(ConfigError, match="model lda_em has no teacher"):
        spec.check([classifier().model_copy(update={"teacher": "three"}), *others], FIT)
