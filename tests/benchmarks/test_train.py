import pytest
from rich.console import Console

from mer_ray.benchmarks import train
from mer_ray.config import PluginConfig
from mer_ray.encoders import hubert, joint_audio_text


def case(task, plugin, **options):
    """A task on the plug-in's tiny model."""
    source = str(plugin.tiny().config.weights.source)
    name = plugin.__name__.rpartition(".")[2]
    return PluginConfig(
        name=task, options={"encoder": {"plugin": name, "options": {"weights": {"source": source}}}} | options
    )


def test_it_counts_and_times_a_step_of_each_case():
    settings = train.Config(
        tasks={
            "speech": case("speech_finetune", hubert, tuning={"how": "full"}),
            "answers": case("joint_audio_text", joint_audio_text, tuning={"how": "lora", "rank": 2}),
        },
        clips=2,
        seconds=1.0,
        steps=2,
        device="cpu",
        precision="fp32",
        checkpoint_activations=True,
    )
    *_, told = train.run(settings, Console(quiet=True))
    speech, answers = told["tasks"]["speech"], told["tasks"]["answers"]
    assert speech["sound_seconds_per_s"] == pytest.approx(speech["clips_per_s"])
    assert answers["tokens_per_s"] > answers["clips_per_s"]
    assert speech["trained"] == speech["parameters"]
    assert 0 < answers["trained"] < answers["parameters"]
    for figures in (speech, answers):
        assert figures["matrix_rate_share"] == pytest.approx(figures["model_flops_per_s"] / told["matrix_rate"])
        assert figures["matrix_rate_share"] > 0
