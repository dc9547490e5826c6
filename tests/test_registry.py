import pytest

from mer_ray import registry
from mer_ray.errors import ConfigError, PluginError


def test_a_plugin_is_a_file_in_its_folder():
    assert registry.find("fusion", "attention").__name__ == "mer_ray.fusion.attention"


def test_an_unknown_plugin_names_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'attention'"):
        registry.find("fusion", "atention")


def test_a_wrong_option_names_its_place_and_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key mining\.vote\.min_agre; did you mean 'min_agree'"):
        registry.configure("mining", "vote", {"min_agre": 3})


@pytest.mark.parametrize("kind", sorted(registry.KINDS))
def test_every_plugin_has_a_config_and_the_class_of_its_kind(kind):
    assert registry.names(kind)
    for name in registry.names(kind):
        module = registry.find(kind, name)
        assert module.Config.model_config["frozen"], name
        assert module.Config.model_config["extra"] == "forbid", name
        assert isinstance(getattr(module, registry.KINDS[kind]), type), name
