"""What the documents promise is there: keys, files, code, classes of the report."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mer_ray import config, registry
from mer_ray.config import (
    EncoderConfig,
    ExtractConfig,
    LearnerConfig,
    MineConfig,
    PredictConfig,
    ProbeConfig,
    TrainConfig,
    TuneConfig,
    WhyConfig,
)
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ClipError
from mer_ray.mining.base import Context

ROOT = Path(config.REPOSITORY)
JOBS = (MineConfig, ExtractConfig, ProbeConfig, TuneConfig, TrainConfig, PredictConfig, WhyConfig)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = re.findall(r"```python\n(# (mer_ray/(\w+)/(\w+)\.py)\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def documented_keys() -> set[str]:
    rows = [row for job in JOBS for row in config.describe(job)]
    rows += config.describe(EncoderConfig, "encoders.NAME.")
    return {key for key, _, _ in rows}


def test_every_key_is_documented_with_its_default_and_meaning() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = [
        *(row for job in JOBS for row in config.describe(job)),
        *config.describe(EncoderConfig, "encoders.NAME."),
        *config.describe(LearnerConfig),
    ]
    for key, default, meaning in rows:
        shown = f"`{default}`" if default else ""
        row = f"| `{key}` | {shown} | {meaning.replace('<', '&lt;')} |"
        assert row in page.replace(r"\|", "|"), f"docs/configuration.md lacks or misstates {key}"


def test_no_key_is_documented_that_does_not_exist() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    known = documented_keys() | {key for key, _, _ in config.describe(LearnerConfig)}
    assert set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)) == known


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_name_real_keys_and_files(page: Path) -> None:
    text = page.read_text()
    sections = "|".join(sorted({key.split(".")[0] for key in documented_keys()}))
    for key in re.findall(rf"(?<![\w./$-])((?:{sections})(?:\.[\w<>]+)+)=", text):
        general = re.sub(r"^encoders\.\w+\.", "encoders.NAME.", key)
        general = re.sub(
            r"^(data\.modalities|search\.space|encoders\.NAME\.options)\..*|^(.*)\.(?:name|options\b.*)$",
            r"\1\2",
            general,
        )
        assert general in documented_keys(), f"{page.name} tells of {key}"
    for name in re.findall(r"--config (?!runs/)(\S+\.yaml)", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:jobs|cluster|tests|mer_ray|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name} tells of {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def load(code: str, name: str, folder: Path) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(kind: str, folder: Path) -> ModuleType:
    ((code, name),) = [(code, name) for code, _, found, name in EXAMPLES if found == kind]
    assert name not in registry.names(kind), "the README's example is one that is not there yet"
    return load(code, name, folder)


def test_the_readmes_encoder_keeps_the_contract(tmp_path: Path) -> None:
    module = example("encoders", tmp_path)
    encoder = getattr(module, registry.KINDS["encoders"])(module.Config())
    tone = np.sin(np.arange(16_000) / 10).astype(np.float32)
    loud, soft = encoder.encode([ClipInput(audio=tone), ClipInput(audio=0.1 * tone)])
    assert loud.shape == (20, encoder.dim)
    assert loud.dtype == np.float32
    np.testing.assert_allclose(loud - soft, 20, atol=1e-3)
    with pytest.raises(ClipError):
        encoder.encode([ClipInput(audio=tone[:5])])


def test_the_readmes_strategy_keeps_the_contract(tmp_path: Path) -> None:
    module = example("mining", tmp_path)
    strategy = getattr(module, registry.KINDS["mining"])(module.Config())
    sure, other, unsure = [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]
    silent = [np.nan, np.nan]
    votes = np.array([[sure, sure, unsure, other, silent], [sure, other, unsure, silent, silent]])
    selection = strategy.select(votes, Context.even(2, 2))
    assert selection.clip.tolist() == [0, 3]
    assert selection.label.tolist() == [0, 1]
    assert selection.agreement.tolist() == [2, 1]
    assert strategy.select(votes[:, :0], Context.even(2, 2)).clip.tolist() == []
