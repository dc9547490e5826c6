"""Folders of files, local or in S3, with the few atomic acts that tables and run directories are built on.

Everything in S3 goes through s3fs. What passes, as an answer of 5xx or a server that is away for half a minute, its
client tries again; on a disk nothing passes within seconds, so a failure there is told at once. A write is whole or not
there: a local file is written beside its place, flushed to the disk and linked or renamed; an object is put in one
request. A bucket has no rename: there a move copies everything before it deletes anything, so that a move cut short
leaves things twice, never lost.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
from fsspec.callbacks import Callback

from mer_ray.config import addresses
from mer_ray.data.alarm import ALARM
from mer_ray.errors import ConfigError, MerRayError, StorageError, machine_fault

_HEX_DIGITS = "0123456789abcdef"
_AT_ONCE = 16
_MOST_DELETED = 100  # in one request, which some servers work through one by one
_CLIENT = {
    # nine waits of up to 1, 2, 4, 8, 16 and then 20 s, each of random length: about a minute in all
    "retries": {"mode": "adaptive", "total_max_attempts": 10},
    "max_pool_connections": _AT_ONCE,
}
_BODY_TRIES = 3  # by s3fs, of an answer that breaks off; each time its client has all the tries above


class Stamp(NamedTuple):
    """What changes when a file does: its ``size``, and as ``tag`` its ETag in S3, its mtime in ns on a disk."""

    size: int
    tag: str


class Store:
    """One folder, local path or ``s3://bucket/prefix``. Names are relative, with ``/`` between their parts.

    Pickles as its address, so that workers open their own connections.

    Raises (every method):
        StorageError: the storage refused, or still failed after several tries with growing waits.
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
        if self.is_local:
            return fsspec.filesystem("file")
        filesystem, _ = fsspec.core.url_to_fs(self.root, use_listings_cache=False, config_kwargs=_CLIENT)
        filesystem.retries = _BODY_TRIES
        return filesystem

    def path(self, name: str = "") -> str:
        """The full path or address of ``name``."""
        return posixpath.join(self.root, name) if name else self.root

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there."""
        if self.is_local:
            return os.path.exists(self.path(name))
        with contextlib.suppress(FileNotFoundError):
            self.size(name)
            return True
        return False

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._guard("look for", name):
            if self.is_local:
                return os.path.getsize(self.path(name))
            return int(self.filesystem.call_s3("head_object", **self._key(name))["ContentLength"])

    def files(self, name: str = "") -> list[str]:
        """Names of the files directly in folder ``name``, sorted; hidden ones and folders are left out."""
        return sorted(self.stamps(name))

    def folders(self, name: str = "") -> list[str]:
        """Names of the folders directly in folder ``name``, sorted; hidden ones are left out."""
        with self._guard("list", name):
            return sorted(entry for entry, stamp in self._entries(name) if stamp is None)

    def stamps(self, name: str = "", by_digit: bool = False) -> dict[str, Stamp]:
        """The stamp of each file directly in folder ``name``, by its name; hidden ones and folders are left out.

        Args:
            name: the folder; there is nothing in one that is missing.
            by_digit: only the names that begin with a hex digit; in S3 each digit is a listing of its own, all at once.
        """
        with self._guard("list", name):
            found = self._by_digit(name) if by_digit and not self.is_local else self._entries(name)
            starts = tuple(_HEX_DIGITS) if by_digit else ""
            return {entry: stamp for entry, stamp in found if stamp and entry.startswith(starts)}

    def details(self, name: str = "", deep: bool = False) -> dict[str, dict[str, Any]]:
        """What is known of each file in folder ``name``, by its name within it; ``deep``: at any depth."""
        with self._guard("list", name):
            listed = self._local_details(name, deep) if self.is_local else self._objects(self._key(name), deep=deep)
            return dict(sorted(listed))

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._guard("read", name):
            if self.is_local:
                return Path(self.path(name)).read_bytes()
            # by one request: for several at a time s3fs would ask for the size first
            return bytes(self.filesystem.cat_file(self.path(name), max_concurrency=1))

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """A file to read at any place, unbuffered: in S3 each read is one request.

        What is raised later, when it is read, is as s3fs raises it; see ``errors.machine_fault``.

        Args:
            name: of the file.
            size: its bytes where they are known; else S3 is asked for them.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._guard("read", name):
            if self.is_local:
                return cast(BinaryIO, open(self.path(name), "rb", buffering=0))
            file = self.filesystem.open(self.path(name), "rb", cache_type="none", size=size)
            if size is not None:
                file.details = {"name": self.path(name), "size": size}  # or the first read asks for them
            return cast(BinaryIO, file)

    def download(self, name: str, path: str, check: Callable[[int], None] = lambda size: None) -> None:
        """Copy a file to a local path as it comes, in S3 by one request.

        Args:
            name: of the file.
            path: where to.
            check: told its bytes while the first are there; what it raises ends the copy.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._guard("read", name):
            if self.is_local:
                check(os.path.getsize(self.path(name)))
                shutil.copyfile(self.path(name), path)
                return
            self.filesystem.get_file(self.path(name), path, callback=_SizeCheck(check), max_concurrency=1)
            check(os.path.getsize(path))

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
        with self._guard("read files of", ""):
            read = self.filesystem.cat_ranges(paths, starts, ends, on_error="raise", **at_once)
            return [bytes(data) for data in read]

    def write(self, name: str, data: bytes) -> None:
        """Put a file whole, replacing one of the same name."""
        with self._guard("write", name):
            if self.is_local:
                self._write_local(name, data, os.replace)
            else:
                self._put_object(name, data, "overwrite")

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Put a file whole unless the name is taken; of two at once exactly one gets True.

        In S3 that is as exact as the server's ``If-None-Match``: AWS lets one writer win; a server that looks first and
        writes then may let two that come within milliseconds both win, the later one's bytes staying.
        """
        with self._guard("write", name):
            if self.is_local:
                return self._write_local(name, data, os.link)
            return self._put_object(name, data, "create")

    def move(self, name: str, to: str) -> None:
        """Rename a file or folder; ``to`` must not exist."""
        with self._guard("move", name):
            if self.is_local:
                os.rename(self.path(name), self.path(to))
                return
            there = self._beneath(name) or [name]
            for path in there:
                self.filesystem.cp_file(self.path(path), self.path(to + path.removeprefix(name)))
            self._delete_objects(there)

    def move_aside(self, name: str, folder: str) -> str:
        """Move a file or folder into ``folder`` under a free name, and return that; nothing is lost or overwritten."""
        to = f"{folder}/{name}.{uuid.uuid4().hex[:8]}"
        if self.is_local:
            Path(self.path(folder)).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.move(name, to)
        return to

    def unlink(self, name: str) -> None:
        """Delete a file, by one request; nothing happens when there is none."""
        with self._guard("delete", name), contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path(name))

    def remove(self, name: str) -> None:
        """Delete a file or folder; nothing happens when there is none."""
        with self._guard("delete", name):
            if self.is_local:
                with contextlib.suppress(FileNotFoundError):
                    self.filesystem.rm(self.path(name), recursive=True)
                return
            self._delete_objects([name, *self._beneath(name)])

    def _beneath(self, name: str) -> list[str]:
        return [f"{name}/{path}" for path, _ in self._objects(self._key(name), deep=True)]

    def _entries(self, name: str) -> Iterator[tuple[str, Stamp | None]]:
        """Name and stamp of each file directly in a folder, None for a folder; hidden ones are left out."""
        listed = self._local_entries(name) if self.is_local else self._remote_entries(self._key(name))
        return ((entry, stamp) for entry, stamp in listed if not entry.startswith("."))

    def _by_digit(self, name: str) -> Iterator[tuple[str, Stamp | None]]:
        where = self._key(name)  # here, since each thread would make a client
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for listed in pool.map(lambda digit: list(self._remote_entries(where, digit)), _HEX_DIGITS):
                yield from listed

    def _local_entries(self, name: str) -> Iterator[tuple[str, Stamp | None]]:
        try:
            listed = os.scandir(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return
        with listed:
            for entry in listed:
                with contextlib.suppress(FileNotFoundError):  # it went while it was looked at
                    status = entry.stat()
                    if entry.is_file():
                        yield entry.name, Stamp(status.st_size, str(status.st_mtime_ns))
                    elif entry.is_dir():
                        yield entry.name, None

    def _remote_entries(self, where: Mapping[str, str], start: str = "") -> Iterator[tuple[str, Stamp | None]]:
        for entry, known in self._objects(where, start, folders=True):
            yield entry, Stamp(known["size"], known["ETag"].strip('"')) if known else None

    def _local_details(self, name: str, deep: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        folder = self.path(name)
        try:
            listed = self.filesystem.find(folder, detail=True) if deep else self.filesystem.ls(folder, detail=True)
        except FileNotFoundError:
            return
        for info in listed.values() if deep else listed:
            if info["type"] == "file" and info["name"] != folder:
                yield posixpath.relpath(info["name"], folder), info

    def _objects(
        self, where: Mapping[str, str], start: str = "", deep: bool = False, folders: bool = False
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is in a folder, a page of a thousand by each request: s3fs lists the one above too where it finds none.

        Args:
            where: the folder, see ``_key``.
            start: only what begins so.
            deep: at any depth.
            folders: give folders too, as names of which nothing is known.
        """
        folder = f"{where['Key']}/".removeprefix("/")
        wanted = {"Bucket": where["Bucket"], "Prefix": folder + start} | ({} if deep else {"Delimiter": "/"})
        while True:
            try:
                page = self.filesystem.call_s3("list_objects_v2", **wanted)
            except FileNotFoundError:  # there is no such bucket
                return
            for one in page.get("CommonPrefixes", []) if folders else []:
                yield one["Prefix"].removeprefix(folder).rstrip("/"), {}
            for one in page.get("Contents", []):
                if one["Key"] != folder:  # an empty object that some tools leave
                    yield one["Key"].removeprefix(folder), {**one, "size": one["Size"]}
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def _key(self, name: str) -> dict[str, str]:
        bucket, key, _ = self.filesystem.split_path(self.path(name))
        return {"Bucket": bucket, "Key": key}

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

    def _delete_objects(self, names: Sequence[str]) -> None:
        """Many by one request; ``rm`` of s3fs asks more, and passes over what the server says it did not delete."""
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), _MOST_DELETED):
            wanted = {"Objects": [{"Key": key["Key"]} for key in keys[start : start + _MOST_DELETED]], "Quiet": True}
            told = self.filesystem.call_s3("delete_objects", Bucket=keys[0]["Bucket"], Delete=wanted)
            if wrong := told.get("Errors"):
                raise OSError(f"{wrong[0].get('Key')}: {wrong[0].get('Code')} {wrong[0].get('Message', '')}")

    @contextlib.contextmanager
    def _guard(self, verb: str, name: str) -> Iterator[None]:
        """What the storage raises becomes a ``StorageError`` that says what to do, save that a file is missing."""
        try:
            with ALARM.standing_still():
                yield
        except (FileNotFoundError, MerRayError):
            raise
        except Exception as error:
            if not isinstance(error, OSError) and not isinstance(machine_fault(error), StorageError):
                raise
            raise StorageError(
                f"cannot {verb} {self.path(name)}: {error}. What is committed stays; "
                "mend the storage and give the same command again"
            ) from error


def _is_taken(error: OSError) -> bool:
    """Whether a put was refused because the name is taken; s3fs knows that of AWS alone, which names the condition."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


class _SizeCheck(Callback):  # type: ignore[misc]  # fsspec has no types
    """Tells a function the size of what is fetched, at each piece: then s3fs closes what it has opened."""

    def __init__(self, check: Callable[[int], None]) -> None:
        super().__init__()
        self._check = check

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._check(max(self.size or 0, self.value))
