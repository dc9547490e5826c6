"""The rules of the house: who may import whom, what stands where, and that every shipped file loads."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from mer_ray import config, registry

ROOT = Path(config.REPOSITORY)
TOP_LEVEL = {
    "pyproject.toml", "mer_ray", "jobs", "cluster", "tests", "README.md", "Makefile", "constraints.txt", "LICENSE",
    "CHANGELOG.md", "CONTRIBUTING.md", "docs",
}  # fmt: skip
ROWS = (
    ("types", "errors", "progress", "config", "registry"),
    ("demo",),
    ("data",),
    ("pretrained",),
    (
        "separators",
        "recognisers",
        "punctuators",
        "detectors",
        "encoders",
        "fusion",
        "classifiers",
        "mining",
        "speech",
        "evaluation",
    ),
    ("stages", "learners", "rounds", "tasks"),
    ("runtime",),
    ("train",),
    ("tune",),
    ("pipelines",),
    ("benchmarks",),
    ("jobs",),
)
ROW = {name: height for height, names in enumerate(ROWS) for name in names}
MAY_IMPORT = {
    "ray": {"runtime", "train", "tune", "pipelines", "benchmarks", "jobs"},
    "deepspeed": {"train"},
}
MOST_JOB_LINES = 60
JOB_OF = {
    "extract": config.ExtractConfig,
    "predict": config.PredictConfig,
    "probe": config.ProbeConfig,
    "tune": config.TuneConfig,
}
"""The job that a shipped config is for, where it is not the main job."""


def violations(root: Path) -> list[str]:
    """Every breach of the layout and layers in a repository at ``root``."""
    checks = (_layer_faults, _circle_faults, _plugin_faults, _job_faults, _top_level_faults)
    return [fault for check in checks for fault in check(root)]


def _layer_faults(root: Path) -> Iterator[str]:
    for path in sorted([*root.glob("mer_ray/**/*.py"), *root.glob("jobs/*.py")]):
        place = path.relative_to(root)
        name = place.with_suffix("").as_posix()
        if any(part.strip("_") in {"util", "utils"} for part in place.with_suffix("").parts):
            yield f"{name}: there is no utils"
        own = "jobs" if place.parts[0] == "jobs" else Path(*place.parts[1:]).with_suffix("").parts[0]
        if own == "__init__":
            own = "types"
        if own not in ROW:
            yield f"{name}: {own} stands in no row"
            continue
        faults = (_import_fault(own, imported) for imported in sorted(_imports(path, place)))
        yield from (f"{name}: {fault}" for fault in faults if fault)


def _import_fault(own: str, imported: str) -> str | None:
    """What is wrong with ``own`` importing ``imported``, or None."""
    head, _, rest = imported.partition(".")
    if own not in MAY_IMPORT.get(head, {own}):
        return f"must not import {head}"
    other = {"mer_ray": rest.split(".")[0], "jobs": "jobs"}.get(head, "")
    if other in {"", own} or other.startswith("__"):
        return None
    if other not in ROW:
        return f"imports {imported}, which stands in no row"
    if ROW[other] > ROW[own]:
        return f"imports {other}, which stands above {own}"
    if ROW[other] == ROW[own] > 0:
        return f"imports {other}, which stands in the row of {own}"
    return None


def _imports(path: Path, place: Path) -> set[str]:
    """Modules imported anywhere in a file: own ones as ``mer_ray.x``, others by their first name."""
    found: set[str] = set()
    for module, names in _import_statements(path, place):
        found.update([f"{module}.{name}" for name in names] if names and module == "mer_ray" else [module])
    return {name if name.split(".")[0] in {"mer_ray", "jobs"} else name.split(".")[0] for name in found}


def _import_statements(path: Path, place: Path) -> Iterator[tuple[str, list[str]]]:
    """Each import anywhere in a file: the module by its full name, and the names taken from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*place.parts[: len(place.parts) - node.level], *filter(None, [node.module])])
            yield base if node.level else node.module or "", [alias.name for alias in node.names]


def _circle_faults(root: Path) -> Iterator[str]:
    """The first circle of files that import each other, wherever in them the imports stand."""
    files = {_module_name(path.relative_to(root)): path for path in sorted(root.glob("mer_ray/**/*.py"))}
    graph = {name: _modules_read(path, path.relative_to(root)) & files.keys() - {name} for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"files import each other: {' <- '.join(error.args[1])}"


def _module_name(place: Path) -> str:
    parts = place.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules_read(path: Path, place: Path) -> set[str]:
    """Each module that a file imports, and each name taken from one, which may be a module too."""
    statements = _import_statements(path, place)
    return {name for module, names in statements for name in [module, *(f"{module}.{taken}" for taken in names)]}


def _plugin_faults(root: Path) -> Iterator[str]:
    for kind, wanted in registry.KINDS.items():
        for path in sorted((root / "mer_ray" / kind).iterdir()) if (root / "mer_ray" / kind).is_dir() else []:
            if path.name in {"__init__.py", "base.py", "__pycache__"}:
                continue
            if path.suffix != ".py":
                yield f"{kind}/{path.name}: a plug-in folder holds plug-ins and base.py, nothing else"
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
            names = classes | {
                alias.asname or alias.name
                for node in tree.body
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            if wanted not in classes or "Config" not in names:
                yield f"{kind}/{path.name}: no plug-in, it lacks class {wanted} or Config"


def _job_faults(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("jobs/*.py")):
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) >= MOST_JOB_LINES:
            yield f"jobs/{path.name}: {lines} lines; a job holds no logic"


def _top_level_faults(root: Path) -> Iterator[str]:
    ignore = root / ".gitignore"
    ignored = [line.strip("/") for line in ignore.read_text().split()] if ignore.exists() else []
    for path in sorted(root.iterdir()):
        own = path.name in TOP_LEVEL or path.name.startswith(".")
        if not own and not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored):
            yield f"{path.name}: not of the top level"
    for name in sorted(TOP_LEVEL):
        if not (root / name).exists():
            yield f"{name}: missing from the top level"


def test_this_house_holds_its_rules() -> None:
    assert violations(ROOT) == []


def make_house(root: Path) -> None:
    """The smallest repository without a fault."""
    for name in TOP_LEVEL:
        if "." in name or name in {"LICENSE", "Makefile"}:
            (root / name).write_text("")
        else:
            (root / name).mkdir()
    files = {
        "mer_ray/__init__.py": "",
        "mer_ray/errors.py": "",
        "mer_ray/config.py": "from mer_ray.errors import X\n",
        "mer_ray/data/table.py": "import ast\nfrom mer_ray import errors\nfrom mer_ray.data import media\n",
        "mer_ray/data/sheet.py": "import mer_ray.data.table\nfrom . import storage\n",
        "mer_ray/data/storage.py": "",
        "mer_ray/demo/files.py": "from mer_ray.config import X\n",
        "mer_ray/encoders/base.py": "",
        "mer_ray/encoders/light.py": "class Config: ...\nclass Encoder: ...\n",
        "mer_ray/runtime/session.py": "import ray\nfrom mer_ray.stages.base import Stage\n",
        "jobs/mine.py": "from mer_ray.pipelines import mine\n",
        ".gitignore": "runs/\n",
        "runs/x": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


BREACHES = {
    "upwards": ("mer_ray/data/x.py", "from mer_ray.stages import base", "imports stages, which stands above data"),
    "upwards, package": ("mer_ray/data/x.py", "from mer_ray import stages", "imports stages, which stands above data"),
    "upwards, plain": ("mer_ray/data/x.py", "import mer_ray.tune.x", "imports tune, which stands above data"),
    "upwards, relative": ("mer_ray/data/x.py", "from ..stages import base", "imports stages, which stands above"),
    "upwards, demo": ("mer_ray/demo/x.py", "from mer_ray.data import media", "imports data, which stands above demo"),
    "within a function": ("mer_ray/data/x.py", "def f():\n    import mer_ray.rounds", "imports rounds, which stands"),
    "same row": ("mer_ray/speech/x.py", "import mer_ray.encoders.base", "imports encoders, which stands in the row"),
    "a job": ("mer_ray/pipelines/x.py", "from jobs import mine", "imports jobs, which stands above pipelines"),
    "ray": ("mer_ray/stages/x.py", "from ray import data", "must not import ray"),
    "ray deep": ("mer_ray/learners/x.py", "import ray.data", "must not import ray"),
    "deepspeed": ("mer_ray/runtime/x.py", "import deepspeed", "must not import deepspeed"),
    "circle": ("mer_ray/data/media.py", "from mer_ray.data.table import X", "import each other"),
    "circle of three": ("mer_ray/data/media.py", "from . import sheet", "import each other"),
    "circle, function": (
        "mer_ray/data/media.py",
        "def f():\n    import mer_ray.data.table",
        "files import each other: ",
    ),
    "circle, types": (
        "mer_ray/data/media.py",
        "if TYPE_CHECKING:\n    from .sheet import X",
        "files import each other: ",
    ),
    "circle, package": ("mer_ray/errors.py", "from mer_ray import config", "import each other"),
    "utils": ("mer_ray/data/utils.py", "", "there is no utils"),
    "new package": ("mer_ray/helpers/x.py", "", "helpers stands in no row"),
    "no plug-in": ("mer_ray/encoders/maths.py", "def f(): ...", "no plug-in"),
    "no config": ("mer_ray/encoders/maths.py", "class Encoder: ...", "no plug-in"),
    "folder beside": ("mer_ray/encoders/more/x.py", "class Config: ...\nclass Encoder: ...", "nothing else"),
    "data beside": ("mer_ray/encoders/words.txt", "", "nothing else"),
    "long job": ("jobs/long.py", "x = 1\n" * 60, "a job holds no logic"),
    "stray file": ("notes.txt", "", "not of the top level"),
}


def test_the_smallest_house_has_no_fault(tmp_path: Path) -> None:
    make_house(tmp_path)
    assert violations(tmp_path) == []


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_found(breach: str, tmp_path: Path) -> None:
    name, text, fault = BREACHES[breach]
    make_house(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    found = violations(tmp_path)
    assert len(found) == 1, found
    assert fault in found[0]


def test_a_missing_part_is_found(tmp_path: Path) -> None:
    make_house(tmp_path)
    (tmp_path / "LICENSE").unlink()
    assert violations(tmp_path) == ["LICENSE: missing from the top level"]


def test_the_shipped_configs_load() -> None:
    shipped = sorted(config.CONFIGS.glob("*.yaml"))
    assert {"folder.yaml", "features.yaml"} <= {path.name for path in shipped}
    for path in shipped:
        job = JOB_OF.get(path.stem, config.MineConfig)
        loaded = config.load(job, path)
        assert yaml.safe_load(path.read_text()).keys() <= job.model_fields.keys(), f"{path.name}: passed over"
        for name, encoder in getattr(loaded, "encoders", {}).items():
            assert registry.configure("encoders", encoder.plugin, encoder.options) is not None, name


def test_the_shipped_trainings_load() -> None:
    """Each task has a config at the paper's scale and a tiny one; what they ask of DeepSpeed can be had."""
    folder = config.CONFIGS / "train"
    tasks = registry.names("tasks")
    assert {path.stem for path in folder.iterdir()} == {*tasks, *(f"{task}.tiny" for task in tasks)}
    for path in sorted(folder.iterdir()):
        loaded = config.load(config.TrainConfig, path)
        assert loaded.task.name == path.stem.removesuffix(".tiny")
        assert registry.configure("tasks", loaded.task.name, loaded.task.options) is not None
        assert loaded.optimization.batch_size % (loaded.optimization.workers * loaded.optimization.micro_batch) == 0
        assert "ZeRO" in path.read_text() or path.stem.endswith(".tiny")


def test_the_papers_learners_read_the_papers_encoders() -> None:
    papers = config.load(config.MineConfig, "mer2024_semi.yaml")
    read = {feature for learner in papers.learners for feature in learner.features}
    assert read == set(papers.encoders)
    assert config.load(config.ExtractConfig, "mer2024_semi.yaml").encoders == papers.encoders
