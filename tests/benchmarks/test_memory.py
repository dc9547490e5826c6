import pytest
from rich.console import Console

from mer_ray.benchmarks import memory
from mer_ray.errors import ConfigError


def test_what_a_large_encoder_needs_falls_with_the_gpus_and_with_offload():
    settings = memory.Config(models={"internvit-6b-448px": "internvit"}, gpus=[1, 4])
    told = memory.run(settings, Console(quiet=True))["models"]["internvit-6b-448px"]
    assert told["parameters"] == pytest.approx(5.54e9, rel=0.01)
    need = {(row["stage"], row["offload"], row["gpus"]): row["gpu_bytes"] for row in told["needs"]}
    whole = 16 * told["parameters"]  # 2 bytes of weight, 2 of gradient, 12 of Adam with its own weights
    assert whole <= need[3, False, 1] < 1.3 * whole
    assert need[3, False, 4] == pytest.approx(need[3, False, 1] / 4, rel=0.05)
    assert need[3, False, 4] < need[2, False, 4] < need[2, False, 1]
    assert all(need[stage, True, gpus] < need[stage, False, gpus] for stage in (2, 3) for gpus in (1, 4))


def test_an_architecture_that_the_plug_in_does_not_know_is_named():
    with pytest.raises(ConfigError, match=r"models.bert-base: internvit knows .*internvit-6b-448px"):
        memory.run(memory.Config(models={"bert-base": "internvit"}), Console(quiet=True))
