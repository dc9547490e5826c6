import re

import pytest

from mer_ray import config, registry
from mer_ray.errors import ConfigError, PluginError


def test_overrides_parse_as_yaml_and_come_last(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\nmining: {rounds: 2, strategy: topk}\n")
    settings = config.load(config.MineConfig, file, ["mining.rounds=7", "labels=[a, b]", "data.manifest=x.csv"])
    assert (settings.seed, settings.mining.rounds, settings.mining.strategy) == (1, 7, "topk")
    assert settings.labels == ["a", "b"]
    assert settings.data.manifest == "x.csv"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("minig.rounds=3", "unknown key minig; did you mean 'mining'"),
        ("mining.round=3", "unknown key mining.round; did you mean 'rounds'"),
        ("mining.rounds=many", "mining.rounds"),
        ("mining.rounds=-1", "mining.rounds"),
        ("nonsense", "not of the form"),
        ("seed=[1", "not YAML"),
        ("seed=2001-99-99", "not YAML"),
        ("seed=!!int x", "not YAML"),
        ("seed=!!timestamp x", "not YAML"),
        ("seed=" + "9" * 5000, "not YAML"),
        ("seed=" + "[" * 500, "not YAML"),
        ("labels=&a [*a]", "not YAML"),
        ('run.dir="\\ud800"', "not YAML"),
    ],
)
def test_a_wrong_override_is_one_clear_message(override, told):
    with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
        config.load(config.MineConfig, None, [override])


def test_a_missing_file_names_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"demo\.yaml"):
        config.load(config.MineConfig, "none.yaml")


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load(config.MineConfig, "jobs/configs/demo.yaml").evaluation.ablations
    assert config.load(config.MineConfig, "folder.yaml").denoise.enabled == "auto"


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "\xff\xfe", "a: 2001-99-99"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        config.load(config.MineConfig, file)


def test_jobs_share_a_file_and_pass_over_what_is_anothers(tmp_path):
    file = tmp_path / "both.yaml"
    file.write_text("seed: 3\nmining: {rounds: 2}\nexport: {mertools: set}\nprobe: {folds: 3}\n")
    extract = config.load(config.ExtractConfig, file)
    assert (extract.seed, extract.export.mertools) == (3, "set")
    mine = config.load(config.MineConfig, file)
    assert (mine.seed, mine.mining.rounds) == (3, 2)
    assert config.load(config.ProbeConfig, file).probe.folds == 3
    file.write_text("minig: {rounds: 2}\n")
    with pytest.raises(ConfigError, match="unknown key minig"):
        config.load(config.ExtractConfig, file)
    with pytest.raises(ConfigError, match="unknown key mining"):
        config.load(config.ExtractConfig, None, ["mining.rounds=3"])


def test_the_digest_follows_every_value():
    one = config.load(config.MineConfig, None, [])
    other = config.load(config.MineConfig, None, ["fit.dropout=0.31"])
    assert config.digest(one) == config.digest(config.load(config.MineConfig, None, []))
    assert config.digest(one) != config.digest(other)


@pytest.mark.parametrize("job", ["Mine", "Extract", "Probe", "Tune", "Train", "Predict", "Why"])
def test_every_key_has_a_meaning_and_its_default_is_one_line(job):
    rows = list(config.describe(getattr(config, f"{job}Config")))
    assert len(rows) > (50 if job == "Mine" else 3)
    assert [key for key, _, meaning in rows if not meaning] == []
    assert [key for key, default, meaning in rows if "\n" in default + meaning] == []


STRATEGIES = [f"mining.{name}" for name in ("adaptive", "soft", "threshold", "vote_topk")]


@pytest.mark.parametrize("key", [key for key in registry.REMOVED if key.count(".") == 1 and key not in STRATEGIES])
def test_a_key_that_is_no_longer_there_is_refused_with_what_to_do_instead(key):
    with pytest.raises(ConfigError, match=re.escape(f"{key} is no longer there: {registry.REMOVED[key]}")):
        config.load(config.MineConfig, None, [f"{key}=1"])


@pytest.mark.parametrize("key", STRATEGIES)
def test_so_is_a_strategy(key):
    with pytest.raises(PluginError, match=re.escape(f"is no longer there: {registry.REMOVED[key]}")):
        registry.configure(*key.split("."), {})


@pytest.mark.parametrize("name", ["share", "share_rounds", "growth"])
def test_so_is_an_option_of_a_strategy(name):
    with pytest.raises(ConfigError, match=re.escape(registry.REMOVED[f"mining.topk.{name}"])):
        registry.configure("mining", "topk", {name: 1})
