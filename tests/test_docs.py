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
JOBS = {
    "mine": MineConfig,
    "extract": ExtractConfig,
    "probe": ProbeConfig,
    "tune": TuneConfig,
    "train_encoder": TrainConfig,
    "predict": PredictConfig,
    "why": WhyConfig,
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = re.findall(r"```python\n(# (mer_ray/(\w+)/(\w+)\.py)\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def documented_keys() -> set[str]:
    return {key for job in JOBS.values() for key in rows(job)} | set(rows(EncoderConfig, "encoders.NAME."))


def rows(model: type[config.Section], prefix: str = "") -> dict[str, str]:
    """The documented row of each key of a config."""
    return {
        key: f"| `{key}` | {f'`{default}`' if default else ''} | {meaning.replace('<', '&lt;')} |"
        for key, default, meaning in config.describe(model, prefix)
    }


def documented_tables() -> dict[str, set[frozenset[str]]]:
    """The tables of keys in docs/configuration.md, each as its rows, by the job that their part is about."""
    page = (ROOT / "docs" / "configuration.md").read_text().replace(r"\|", "|")
    parts = re.split(r"^## .*`jobs/(\w+)\.py`.*$", page, flags=re.MULTILINE)[1:]
    table = re.compile(r"^\| key \| default \| meaning \|\n\|---\|---\|---\|\n((?:\|.*\n?)+)", re.MULTILINE)
    return {
        job: {frozenset(body.splitlines()) for body in table.findall(text)}
        for job, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_every_key_is_documented_in_its_place_with_its_default_and_meaning_and_no_other() -> None:
    mine = rows(MineConfig)
    sections: dict[str, set[str]] = {}
    for key, row in mine.items():
        sections.setdefault(key.partition(".")[0] if "." in key else "", set()).add(row)
    each = (rows(EncoderConfig, "encoders.NAME."), rows(LearnerConfig))
    expected = {job: {frozenset(rows(model)[key] for key in rows(model).keys() - mine)} for job, model in JOBS.items()}
    expected["mine"] = {frozenset(table) for table in (*sections.values(), *(one.values() for one in each))}
    found = documented_tables()
    assert found.keys() == expected.keys()
    for job, tables in expected.items():
        assert found[job] == tables, f"docs/configuration.md, jobs/{job}.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_name_real_keys_and_files(page: Path) -> None:
    text = page.read_text()
    sections = "|".join(sorted({key.split(".")[0] for key in documented_keys()}))
    for key in re.findall(rf"(?<![\w./$-])((?:{sections})(?:\.[\w<>]+)+)=", text):
        general = re.sub(r"^encoders\.\w+\.", "encoders.NAME.", key)
        general = re.sub(
            r"^(data\.modalities|search\.space|(?:encoders\.NAME|task)\.options)\..*|^(?!task)(.*)\.(?:name|options\b.*)$",
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
    selection = strategy.select(votes, Context.even(2))
    assert selection.clip.tolist() == [0, 3]
    assert selection.label.tolist() == [0, 1]
    assert selection.agreement.tolist() == [2, 1]
    assert strategy.select(votes[:, :0], Context.even(2)).clip.tolist() == []


def test_what_a_user_is_told_to_type_names_the_environments_python() -> None:
    told = [*PAGES, *config.CONFIGS.rglob("*.yaml"), *(ROOT / "mer_ray").rglob("*.py")]
    for path in told:
        bare = re.findall(
            r"(?<!bin/)(?<!-- )(?<!-- bash cluster/again\.sh )python (?:jobs/|-c |-m pytest).*",
            path.read_text(encoding="utf-8"),
        )
        assert not bare, f"{path.relative_to(ROOT)}: {bare}"
