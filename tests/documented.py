"""The commands that the documents show, read as a shell reads them."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mer_ray import config

ROOT = Path(config.REPOSITORY)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = (".venv/bin/python", ".venv/bin/ray", ".venv/bin/hf", "swift/bin/pip", "make", ".ci/run")
"""What a documented command may call; each leaves its arguments behind instead of running."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_RECORD = 'record() { printf "%s\\0" "$@"; printf "\\36"; }'

Command = tuple[str, ...]


@dataclass(frozen=True)
class Fence:
    """A block of a page; ``language`` is empty for commands."""

    language: str
    text: str


def fences(page: Path) -> list[Fence]:
    return [Fence(language, text) for _, language, text in _FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(text: str, **variables: str) -> list[Command]:
    """The commands of a block in the order in which bash comes to them: loops run, variables and quotes resolved.

    Raises:
        ValueError: bash finds no such program among ``PROGRAMS``, or cannot read the block.
    """
    stand_ins = [f'{program}() {{ record {program} "$@"; }}' for program in PROGRAMS]
    script = "\n".join(["set -euf", _RECORD, *stand_ins, text])
    told = {"PATH": "/nowhere", "LC_ALL": "C.UTF-8", **variables}
    bash = shutil.which("bash") or "/bin/bash"
    done = subprocess.run([bash, "-c", script], env=told, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{done.stderr.strip()}\nin the documented commands\n{text}")
    return [tuple(one.split("\0")[:-1]) for one in done.stdout.split("\36")[:-1]]


def of_page(page: Path) -> list[Command]:
    """All commands of a page; what it leaves to the user to set is left as it stands."""
    shell = [fence.text for fence in fences(page) if not fence.language]
    return [command for text in shell for command in commands(text, NEMO="$NEMO")]
