"""Weights of pretrained models: where they lie, that they are safe to load, and what they are.

A source is one of

- a folder on this machine, as ``save_pretrained`` or ``hf download --local-dir`` leaves it;
- an ``s3://`` folder of the same files, copied once per machine into the cache (``MER_RAY_CACHE``, default
  ``~/.cache/mer_ray``);
- a name on the Hugging Face hub with the commit to use; the hub's own cache and ``HF_HUB_OFFLINE`` are honoured;
- ``package:NAME``: a small real model that an installed Python package carries, see ``packaged``;
- ``random:NAME``: a published architecture with random weights, to measure speed and to try things out.

Only safetensors are read, and a library's own format where a plug-in names its files: a pickle can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mer_ray.data.storage import Store
from mer_ray.errors import NotHereError, PluginError
from mer_ray.pretrained import packaged
from mer_ray.pretrained.packaged import PACKAGE

RANDOM = "random:"
SAFETENSORS = "*.safetensors"
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.yaml", "*.tiktoken", "*.mvn", "vocab.bpe")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def _whole_path(name: str) -> str:
    """A file or folder that is there by its whole path, for workers run in other folders; any other name as it is."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


LocalPath = Annotated[str, AfterValidator(_whole_path)]
"""A field for a path of this machine, or what may be one."""


class Weights(BaseModel):
    """Where a model's weights come from. What is a folder here and now is never taken for a hub name elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: LocalPath = Field(
        description="folder | s3:// folder | hub name | package:NAME | random:ARCHITECTURE", min_length=1
    )
    revision: str | None = Field(None, description="commit of a hub name, 40 hex digits")
    trust_remote_code: bool = Field(False, description="run Python that comes with a hub model; needs a revision")

    @model_validator(mode="after")
    def _pinned(self) -> Weights:
        needs_commit = self.trust_remote_code or self.is_on_hub
        if needs_commit and not (self.revision and _COMMIT.fullmatch(self.revision)):
            why = "trust_remote_code runs the model's own code" if self.trust_remote_code else "it names a hub model"
            raise ValueError(
                f"{self.source!r} needs revision=<commit, 40 hex digits>, because {why}; a branch can change "
                "under you. If a folder of this machine is meant, it does not exist"
            )
        return self

    @property
    def is_random(self) -> bool:
        """Whether the weights are made on the spot."""
        return self.source.startswith(RANDOM)

    @property
    def is_on_hub(self) -> bool:
        """Whether the source is a name on the Hugging Face hub, like ``facebook/hubert-base-ls960``."""
        return bool(_HUB_NAME.fullmatch(self.source))


_ONLY_HERE: ContextVar[bool] = ContextVar("only_here", default=False)


@contextmanager
def only_here() -> Iterator[None]:
    """In the block nothing is asked of a network or put into a cache, and no model's own code is run.

    What that takes raises ``NotHereError`` instead. A dry run works so.
    """
    token = _ONLY_HERE.set(True)
    try:
        yield
    finally:
        _ONLY_HERE.reset(token)


def fetch(weights: Weights, only_config: bool = False, files: str = SAFETENSORS) -> Path:
    """The folder of this machine that holds the weights; downloads or copies what is missing.

    Args:
        weights: a source that is not random.
        only_config: leave the large files where they are; configuration, tokenizer and the like are enough.
        files: pattern of the large files' names.

    Raises:
        PluginError: they cannot be had, or there are no safetensors among them; the message says what to do.
    """
    if weights.trust_remote_code:
        _may_reach(weights.source)  # transformers copies the model's code into its cache
    if weights.source.startswith("s3://"):
        folder = _copy_from_s3(weights, only_config, files)
    elif weights.source.startswith(PACKAGE):
        name = weights.source.removeprefix(PACKAGE)
        if not packaged.is_whole(name, _cache()):
            _may_reach(weights.source)  # its parts are put together in the cache
        folder = packaged.folder(name, _cache())
    elif weights.is_on_hub:
        folder = _download(weights, only_config, files)
    else:
        folder = Path(weights.source).expanduser()
        if not folder.is_dir():
            raise PluginError(_missing(weights.source, "there is no such folder"))
    if not only_config and not any(folder.glob(files)):
        raise PluginError(_unsafe(weights.source, [path.name for path in folder.iterdir()], files=files))
    return folder


def fetch_file(file: str, what: str = "weights") -> Path:
    """A single file of weights on this machine; one in a bucket is copied into the cache.

    Args:
        file: a path, or an ``s3://`` address.
        what: what it holds, for the message.

    Raises:
        PluginError: there is no such file.
    """
    if file.startswith("s3://"):
        _may_reach(file)
        source, _, name = file.rpartition("/")
        objects = {path: info for path, info in Store(source).details().items() if path == name}
        if objects:
            return _cached(source, objects, [name]) / name
    elif (path := Path(file).expanduser()).is_file():
        return path
    raise PluginError(f"{what} {file}: there is no such file")


@cache
def identity(weights: Weights, files: str = SAFETENSORS) -> str:
    """What the weights are, whichever folder they lie in: part of a table's digest.

    A hub model is its name and commit; a folder is the hash of its files; an ``s3://`` folder that of its objects'
    names, sizes and etags. Kept for the life of the process.

    Raises:
        PluginError: they cannot be found.
    """
    if weights.is_random:
        return weights.source
    if weights.is_on_hub:
        return f"{weights.source}@{weights.revision}"
    digest = hashlib.sha256()
    if weights.source.startswith("s3://"):
        _may_reach(weights.source)
        for name, info in sorted(_objects(weights.source, files).items()):
            digest.update(f"{name}\0{info['size']}\0{info.get('ETag')}\n".encode())
    else:
        for path in _files(fetch(weights, files=files), weights, files):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256 {digest.hexdigest()[:16]}"


@cache
def file_identity(file: str) -> str:
    """What a single file of weights is: the hash of its content. Kept for the life of the process.

    Raises:
        PluginError: there is no such file.
    """
    with fetch_file(file).open("rb") as opened:
        return f"sha256 {hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"


def _patterns(weights: Weights, files: str, only_config: bool = False) -> list[str]:
    """Names of the files that decide what a model computes."""
    return [*_SMALL, *(["*.py"] if weights.trust_remote_code else []), *([] if only_config else [files])]


def _files(folder: Path, weights: Weights, files: str) -> list[Path]:
    """Those of a folder, in a fixed order."""
    kept = [path for pattern in _patterns(weights, files) for path in folder.glob(pattern)]
    return sorted(path for path in kept if path.name != "README.md")


def _objects(source: str, files: str) -> dict[str, dict[str, object]]:
    objects = Store(source).details()
    if not objects:
        raise PluginError(_missing(source, "there is nothing under this address"))
    if not any(fnmatchcase(name, files) for name in objects):
        raise PluginError(_unsafe(source, objects, files=files))
    return objects


def _may_reach(source: str) -> None:
    """Called before anything leaves this machine or its caches.

    Raises:
        NotHereError: it must not; see ``only_here``.
    """
    if _ONLY_HERE.get():
        raise NotHereError(f"weights {source}: not on this machine yet")


def _copy_from_s3(weights: Weights, only_config: bool, files: str) -> Path:
    _may_reach(weights.source)
    objects, patterns = _objects(weights.source, files), _patterns(weights, files, only_config)
    wanted = [item for item in objects if any(Path(item).match(pattern) for pattern in patterns)]
    return _cached(weights.source, objects, wanted)


def _cached(source: str, objects: Mapping[str, Mapping[str, object]], wanted: Sequence[str]) -> Path:
    """Copy some objects of an ``s3://`` folder into the cache, under the hash of all: changed ones are copied again."""
    listed = json.dumps({name: [info["size"], str(info.get("ETag"))] for name, info in sorted(objects.items())})
    name = hashlib.sha256(f"{source}\n{sorted(wanted)}\n{listed}".encode()).hexdigest()[:24]
    folder = _cache() / "weights" / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{name}.lock")):  # one worker of a machine copies, the others wait for it
            if not folder.is_dir():
                _copy(Store(source), wanted, folder)
    except OSError as error:
        raise PluginError(f"cannot copy {source} into {folder}: {error}") from error
    return folder


def _copy(store: Store, names: Iterable[str], folder: Path) -> None:
    """Copy files into a folder that is there once it is whole; what a killed copy left goes first."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        for name in names:
            store.filesystem.get_file(store.path(name), str(beside / name))
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _download(weights: Weights, only_config: bool, files: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a second of imports, for hub models alone

    assert weights.revision is not None
    try:
        patterns = _patterns(weights, files, only_config)
        folder = Path(
            snapshot_download(
                weights.source,
                revision=weights.revision,
                allow_patterns=patterns,
                local_files_only=_ONLY_HERE.get(),
            )
        )
    except Exception as error:
        _may_reach(weights.source)
        why = (str(error).strip().splitlines() or [""])[0]
        raise PluginError(_missing(weights.source, f"{type(error).__name__}: {why}", weights.revision)) from error
    if not any(folder.glob(files)):
        _may_reach(weights.source)
        _check_published(weights, files)
    return folder


def _check_published(weights: Weights, files: str) -> None:
    """Ask the hub whether there are such files to download; where it cannot be asked, loading tells of it.

    Raises:
        PluginError: there are none.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import DryRunError  # noqa: PLC0415

    patterns = [files, *(f"*{suffix}" for suffix in _PICKLES)]
    try:
        published = snapshot_download(weights.source, revision=weights.revision, allow_patterns=patterns, dry_run=True)
    except DryRunError:
        return
    names = [file.filename for file in published if "/" not in file.filename]
    if not any(fnmatchcase(name, files) for name in names):
        raise PluginError(_unsafe(weights.source, names, weights.revision, files))


def _missing(source: str, why: str, revision: str | None = None) -> str:
    return (
        f"weights {source}: {why}. On a machine with a network: {_command(source, revision)}; then put DIR on every "
        "node, or into a bucket, and give weights.source=DIR (or s3://...). HF_HUB_OFFLINE=1 keeps the hub's cache "
        "from asking the network"
    )


def _unsafe(source: str, names: Iterable[str], revision: str | None = None, files: str = SAFETENSORS) -> str:
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if not pickles or files != SAFETENSORS:
        return f"weights {source}: there is no {files.removeprefix('*')} file in it"
    first = f"{_command(source, revision)}, then " if revision else ""
    return (
        f"weights {source}: only {', '.join(pickles)} there, which can run code when loaded. Convert once, where you "
        f"trust it, in a folder DIR: {first}AutoModel.from_pretrained(DIR).save_pretrained(DIR) with transformers "
        "writes model.safetensors; jobs/weights.py convert FILE DIR plugin=NAME does so for some plug-ins. Give "
        "weights.source=DIR, or put it into a bucket (s3://...), without the old file"
    )


def _command(source: str, revision: str | None) -> str:
    name = f"{source} --revision {revision}" if revision else "<owner/name>"
    return f"`hf download {name} --local-dir DIR`"


def _cache() -> Path:
    return Path(os.environ.get("MER_RAY_CACHE", "~/.cache/mer_ray")).expanduser()
