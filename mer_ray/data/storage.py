"""Folders of files, local or in S3, with the few atomic acts that tables and run directories are built on.

Everything goes through fsspec. A write is whole or not there: a local file is written beside its place, flushed to the
disk and linked or renamed; an object is put in one request. A bucket has no rename: there a move copies everything
before it deletes anything, so that a move cut short leaves things twice, never lost.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import posixpath
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import fsspec
from botocore.exceptions import BotoCoreError, NoCredentialsError

from mer_ray.config import addresses
from mer_ray.errors import ConfigError, StorageError

_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.2
_FINAL_ERRNOS = frozenset({errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENAMETOOLONG})

_HEX_DIGITS = "0123456789abcdef"
_AT_ONCE = 16

T = TypeVar("T")


class Stamp(NamedTuple):
    """What changes when a file does: its ``size``, and as ``tag`` its ETag in S3, its mtime in ns on a disk."""

    size: int
    tag: str


class Store:
    """One folder, local path or ``s3://bucket/prefix``. Names are relative, with ``/`` between their parts.

    Pickles as its address, so that workers open their own connections.

    Raises (every method):
        StorageError: the storage refused for good, or still after several tries with growing waits.
        ConfigError: ``root`` is an address of another kind, which is reached by S3; see ``config.addresses``.
    """

    def __init__(self, root: str) -> None:
        if refusal := addresses.refusal(root):
            raise ConfigError(refusal)
        self.is_local = "://" not in root
        self.root = str(Path(root).resolve()) if self.is_local else root.rstrip("/")

    def __truediv__(self, name: str) -> Store:
        """The folder ``name`` inside this one."""
        return Store(posixpath.join(self.root, name))

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        """Pickle as the address."""
        return type(self), (self.root,)

    def __str__(self) -> str:
        return self.root

    @cached_property
    def filesystem(self) -> Any:  # noqa: ANN401 - fsspec has no types
        """The fsspec filesystem that holds the folder; it remembers no listing, since others write there too."""
        return fsspec.core.url_to_fs(self.root, **({} if self.is_local else {"use_listings_cache": False}))[0]

    def path(self, name: str = "") -> str:
        """The full path or address of ``name``."""
        return posixpath.join(self.root, name) if name else self.root

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there."""
        if self.is_local:
            return os.path.exists(self.path(name))
        return self._retry("look for", name, lambda: bool(self.filesystem.exists(self.path(name))))

    def files(self, name: str = "") -> list[str]:
        """Names of the files directly in folder ``name``, sorted; hidden ones and folders are left out."""
        return [entry for entry, kind in self._entries(name) if kind == "file"]

    def folders(self, name: str = "") -> list[str]:
        """Names of the folders directly in folder ``name``, sorted."""
        return [entry for entry, kind in self._entries(name) if kind == "directory"]

    def details(self, name: str = "", deep: bool = False) -> dict[str, dict[str, Any]]:
        """What fsspec knows of each file in folder ``name``, by its name within it; ``deep``: at any depth."""

        def details() -> dict[str, dict[str, Any]]:
            folder = self.path(name)
            try:
                if deep:
                    listed = self.filesystem.find(folder, detail=True).items()
                else:  # find to a depth takes a refusal for an empty folder
                    listed = [(info["name"], info) for info in self.filesystem.ls(folder, detail=True)]
            except FileNotFoundError:
                return {}
            prefix = self.filesystem._strip_protocol(folder).rstrip("/") + "/"
            inside = {path.removeprefix(prefix): info for path, info in listed if path.startswith(prefix)}
            return {path: info for path, info in sorted(inside.items()) if path and info["type"] == "file"}

        return self._retry("list", name, details)

    def stamps(self, name: str = "", by_digit: bool = False) -> dict[str, Stamp]:
        """The stamp of each file directly in folder ``name``, by its name; hidden ones and folders are left out.

        Args:
            name: the folder; there is nothing in one that is missing.
            by_digit: only the names that begin with a hex digit; in S3 each digit is a listing of its own, all at once.
        """
        if self.is_local:
            stamps = self._retry("list", name, lambda: dict(self._local_stamps(name)))
            return {file: stamp for file, stamp in stamps.items() if not by_digit or file[0] in _HEX_DIGITS}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            starts = _HEX_DIGITS if by_digit else [""]
            listed = pool.map(lambda start: self._retry("list", name, lambda: self._listed_stamps(name, start)), starts)
            return {file: stamp for stamps in listed for file, stamp in stamps.items()}

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._retry("read", name, lambda: bytes(self.filesystem.cat_file(self.path(name))))

    def open(self, name: str) -> BinaryIO:
        """A file to read at any place, unbuffered; in S3 each read is one request, tried again as ``read`` is.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self.is_local:
            return cast(BinaryIO, open(self.path(name), "rb", buffering=0))
        return cast(BinaryIO, _Object(self, name, self.size(name)))

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._retry("read", name, lambda: int(self.filesystem.info(self.path(name))["size"]))

    def download(self, name: str, path: str) -> None:
        """Copy a file to a local path, piece by piece.

        Raises:
            FileNotFoundError: there is no such file.
        """
        self._retry("read", name, lambda: self.filesystem.get_file(self.path(name), path))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """The bytes of a file from ``start`` up to ``end``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self._retry("read", name, lambda: bytes(self.filesystem.cat_file(self.path(name), start=start, end=end)))

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Of many files the bytes from ``start`` up to ``end``, in the order asked for; in S3 several at once.

        Args:
            ranges: name, ``start`` and ``end``, which is larger.

        Raises:
            FileNotFoundError: one of them is missing.
        """
        paths = [self.path(name) for name, _, _ in ranges]
        starts, ends = [start for _, start, _ in ranges], [end for _, _, end in ranges]
        at_once = {} if self.is_local else {"batch_size": _AT_ONCE}
        read = partial(self.filesystem.cat_ranges, paths, starts, ends, on_error="raise", **at_once)
        return self._retry("read files of", "", lambda: [bytes(data) for data in read()])

    def write(self, name: str, data: bytes) -> None:
        """Put a file whole, replacing one of the same name."""
        if self.is_local:
            self._retry("write", name, lambda: self._write_local(name, data, os.replace))
        else:
            self._retry("write", name, lambda: self._put_object(name, data, "overwrite"))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Put a file whole unless the name is taken; of two at once exactly one gets True.

        In S3 that is as exact as the server's ``If-None-Match``: AWS lets one writer win; a server that looks first and
        writes then may let two that come within milliseconds both win, the later one's bytes staying.
        """
        if self.is_local:
            return self._retry("write", name, lambda: self._write_local(name, data, os.link))
        return self._retry("write", name, lambda: self._put_object(name, data, "create"))

    def move(self, name: str, to: str) -> None:
        """Rename a file or folder; ``to`` must not exist."""
        if self.is_local:
            self._retry("move", name, lambda: os.rename(self.path(name), self.path(to)))
        else:
            self._move_objects(name, to)

    def move_aside(self, name: str, folder: str) -> str:
        """Move a file or folder into ``folder`` under a free name, and return that; nothing is lost or overwritten."""
        to = f"{folder}/{name}.{uuid.uuid4().hex[:8]}"
        if self.is_local:
            Path(self.path(folder)).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.move(name, to)
        return to

    def remove(self, name: str) -> None:
        """Delete a file or folder; nothing happens when there is none."""

        def remove() -> None:
            try:
                self.filesystem.rm(self.path(name), recursive=True)
            except FileNotFoundError:
                return

        self._retry("delete", name, remove)

    def _entries(self, name: str) -> list[tuple[str, str]]:
        def entries() -> list[tuple[str, str]]:
            try:
                found = self.filesystem.ls(self.path(name), detail=True, refresh=True)
            except FileNotFoundError:
                return []
            named = [(posixpath.basename(entry["name"].rstrip("/")), entry["type"]) for entry in found]
            return sorted((entry, kind) for entry, kind in named if entry and not entry.startswith("."))

        return self._retry("list", name, entries)

    def _local_stamps(self, name: str) -> Iterator[tuple[str, Stamp]]:
        try:
            entries = os.scandir(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it went while it was looked at
                    if not entry.name.startswith(".") and entry.is_file():
                        status = entry.stat()
                        yield entry.name, Stamp(status.st_size, str(status.st_mtime_ns))

    def _listed_stamps(self, name: str, start: str) -> dict[str, Stamp]:
        """Those of the names that begin with ``start``: no method of s3fs lists a folder in part."""
        bucket, key, _ = self.filesystem.split_path(self.path(name))
        folder = f"{key}/" if key else ""
        wanted = {"Bucket": bucket, "Prefix": folder + start, "Delimiter": "/"}
        stamps: dict[str, Stamp] = {}
        while True:
            try:
                page = self.filesystem.call_s3("list_objects_v2", **wanted)
            except FileNotFoundError:  # there is no such bucket
                return {}
            for entry in page.get("Contents", []):
                file = entry["Key"].removeprefix(folder)
                if file and not file.startswith("."):
                    stamps[file] = Stamp(entry["Size"], entry["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return stamps
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def _write_local(self, name: str, data: bytes, commit: Callable[[str, str], None]) -> bool:
        final = Path(self.path(name))
        final.parent.mkdir(parents=True, exist_ok=True)
        beside = final.parent / f".{final.name[:100]}.{uuid.uuid4().hex}"
        try:
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            commit(str(beside), str(final))
        except FileExistsError:
            return False
        finally:
            beside.unlink(missing_ok=True)
        return True

    def _put_object(self, name: str, data: bytes, mode: str) -> bool:
        try:
            self.filesystem.pipe_file(self.path(name), data, mode=mode)
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise StorageError(f"cannot write {self.path(name)}: {error} Make the bucket, or name another") from error
        except OSError as error:
            if mode == "create" and _is_taken(error):
                return False
            raise
        return True

    def _move_objects(self, name: str, to: str) -> None:
        inside = list(self.details(name, deep=True))
        moves = [(f"{name}/{path}", f"{to}/{path}") for path in inside] or [(name, to)]
        for source, target in moves:
            self._retry("move", source, lambda s=source, t=target: self._copy_object(s, t))  # type: ignore[misc]
        for source, _ in moves:
            self.remove(source)

    def _copy_object(self, name: str, to: str) -> None:
        self.filesystem.cp_file(self.path(name), self.path(to))

    def _retry(self, verb: str, name: str, act: Callable[[], T]) -> T:
        wait = _FIRST_WAIT_SECONDS
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return act()
            except FileNotFoundError:
                raise
            except (OSError, BotoCoreError) as error:
                if attempt == _ATTEMPTS or _is_final(error):
                    raise StorageError(
                        f"cannot {verb} {self.path(name)}: {error}. What is committed stays; "
                        "mend the storage and give the same command again"
                    ) from error
            time.sleep(wait * (1 + random.random()))
            wait *= 2
        raise AssertionError("unreachable")


def _is_final(error: OSError | BotoCoreError) -> bool:
    """Whether trying again cannot help: a full disk, a refusal, no credentials."""
    if isinstance(error, OSError):
        return error.errno in _FINAL_ERRNOS or isinstance(error, PermissionError)
    return isinstance(error, NoCredentialsError)


def _is_taken(error: OSError) -> bool:
    """Whether a put was refused because the name is taken; s3fs knows that of AWS alone, which names the condition."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


class _Object(io.RawIOBase):
    """An object of a store as a file to read and seek in."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        super().__init__()
        self._store, self._name, self._size, self._place = store, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        view = memoryview(buffer).cast("B")
        end = min(self._place + len(view), self._size)
        if end <= self._place:
            return 0
        data = self._store.read_range(self._name, self._place, end)
        view[: len(data)] = data
        self._place += len(data)
        return len(data)
