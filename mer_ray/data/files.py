"""Where media lie: addresses held to the media root, and what each file was when it was looked at.

A folder is listed once, however many clips it holds, so that a manifest of 115,595 rows takes seconds, in S3 too.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mer_ray.config import addresses
from mer_ray.data.opening import is_beneath
from mer_ray.data.storage import Store
from mer_ray.errors import machine_fault
from mer_ray.types import Clip

MISSING = "missing"
"""The identity of a file that is not there."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_MAX_URI_CHARACTERS = 4096
_MAX_LISTINGS = 32
_FILE, _FOLDER, _LINK, _OTHER = "file", "folder", "link", "other"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URI leads: its full address and whether a file is there; or why it must not be opened."""

    address: str = ""
    exists: bool = False
    refused: str | None = None


def locate(media_root: str, uris: Iterable[str]) -> dict[str, Place]:
    """Hold each URI to ``media_root`` and look whether its file exists (DESIGN section 3).

    Relative URIs are taken under the root, absolute ones are admitted beneath it. ``..``, NUL bytes, symlinks that lead
    out, other schemes, folders and special files are refused, in ``Place.refused``.

    Args:
        media_root: local folder or ``s3://bucket/prefix``.
        uris: as the manifest writes them.

    Raises:
        MachineFault: a disk or S3 cannot be listed.
    """
    wanted = dict.fromkeys(uris)
    if "://" in media_root:
        return _locate_remote(media_root.rstrip("/"), wanted)
    tree = _LocalTree(media_root)
    return {uri: tree.locate(uri) for uri in wanted}


def real_root(media_root: str) -> str | None:
    """The folder, links resolved, that a file must lie beneath when it is opened; None in S3, which has no links."""
    return None if "://" in media_root else os.path.realpath(os.path.expanduser(media_root))


def stat_inputs(clips: Iterable[Clip]) -> dict[str, str]:
    """The identity of every media file the clips name, by its address; see ``identify``."""
    return identify(uri for clip in clips for uri in (clip.video, clip.audio, clip.faces) if uri is not None)


def identify(addresses: Iterable[str]) -> dict[str, str]:
    """What changes when a file's content changes: size and mtime, or size and etag in S3; ``missing`` without a file.

    Raises:
        MachineFault: a disk or S3 cannot be asked.
    """
    wanted = dict.fromkeys(addresses)
    remote = _list_remote([address for address in wanted if "://" in address])
    return {a: remote.get(a, MISSING) if "://" in a else _identify_local(a) for a in wanted}


def object_identity(info: Mapping[str, Any]) -> str:
    """The identity of an object from what ``Store.details`` knows of it."""
    etag = str(info.get("ETag", info.get("LastModified", ""))).strip('"')
    return f"{info['size']}-{etag}"


def _identify_local(path: str) -> str:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        if fault := machine_fault(error):
            raise fault from error
        return f"errno-{error.errno}"
    return f"{status.st_size}-{status.st_mtime_ns}"


def _forbidden(uri: str) -> str | None:
    """Why a URI is refused by its spelling alone. The URI is not repeated: it may carry a secret."""
    if "\0" in uri:
        return "holds a NUL byte"
    if len(uri) > _MAX_URI_CHARACTERS:
        return f"is longer than {_MAX_URI_CHARACTERS} characters"
    if ".." in uri.split("/"):
        return "goes up with '..'; name a file beneath data.media_root"
    if refusal := addresses.refusal(uri):
        return f"lies where it is not read: {refusal}"
    scheme = _SCHEME.match(uri)
    if scheme and not uri.startswith("s3://"):
        return f"is of the scheme {scheme.group()!r}; only paths and s3:// are opened ('./' before a name with a colon)"
    return None


def _is_text(path: str) -> bool:
    """Whether it can be hashed and sent: Python stands half characters for the bytes of a name that are no text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _outside(root: str) -> Place:
    return Place(refused=f"lies outside the media root {root}; set data.media_root to a folder above it")


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str
    kinds: dict[str, str] = field(default_factory=dict)
    refused: str | None = None


class _LocalTree:
    """A media root on disk, each of its folders resolved and listed at most once."""

    def __init__(self, root: str) -> None:
        self.given = os.path.abspath(os.path.expanduser(root))
        self.root = os.path.realpath(self.given)
        self._folders = {"": _list_folder(self.root)}
        self._beneath: dict[str, str | None] = {}

    def locate(self, uri: str) -> Place:
        if refused := _forbidden(uri):
            return Place(refused=refused)
        folder_uri, name = posixpath.split(uri)
        relative = self._relative(folder_uri) if uri.startswith("/") else folder_uri
        if relative is None or uri.startswith("s3://"):
            return _outside(self.given)
        if name in ("", "."):
            return Place(refused="names a folder, not a file")
        folder = self._folders.get(relative) or self._walk(relative)
        if folder.refused:
            return Place(refused=folder.refused)
        return self._place(folder, name)

    def _place(self, folder: _Folder, name: str) -> Place:
        path = posixpath.join(folder.path, name)
        kind = folder.kinds.get(name)
        if kind == _LINK:
            target = os.path.realpath(path)
            if not self._holds(target):
                return Place(refused=f"is a symlink that leads out of the media root {self.given}")
            kind = _FILE if os.path.isfile(target) else _OTHER if os.path.exists(target) else None
        if kind in (_FOLDER, _OTHER):
            return Place(refused="is not a regular file")
        if not _is_text(path):
            return Place(refused=f"lies in a folder whose name is not UTF-8 ({os.fsencode(path)!r}); rename it")
        return Place(path, exists=kind == _FILE)

    def _relative(self, folder: str) -> str | None:
        """An absolute folder as a path under the root, or None when it is not beneath it."""
        if folder not in self._beneath:
            real = os.path.realpath(folder)
            self._beneath[folder] = os.path.relpath(real, self.root) if self._holds(real) else None
        return self._beneath[folder]

    def _walk(self, relative: str) -> _Folder:
        """Go down from the root, minding symlinks on the way."""
        folder, walked = self._folders[""], ""
        for name in relative.split("/"):
            if name in ("", "."):
                continue
            walked = f"{walked}/{name}" if walked else name
            if walked not in self._folders:
                self._folders[walked] = self._enter(folder, name)
            folder = self._folders[walked]
        self._folders[relative] = folder
        return folder

    def _enter(self, parent: _Folder, name: str) -> _Folder:
        path = posixpath.join(parent.path, name)
        kind = parent.kinds.get(name)
        if parent.refused or kind not in (_FOLDER, _LINK):
            return _Folder(path, refused=parent.refused)
        if kind == _LINK:
            path = os.path.realpath(path)
            if not self._holds(path):
                return _Folder(path, refused=f"goes through a symlink that leads out of the media root {self.given}")
        return _list_folder(path)

    def _holds(self, real_path: str) -> bool:
        return is_beneath(real_path, self.root)


def _list_folder(path: str) -> _Folder:
    kinds = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_symlink():
                    kinds[entry.name] = _LINK
                elif entry.is_file(follow_symlinks=False):
                    kinds[entry.name] = _FILE
                else:
                    kinds[entry.name] = _FOLDER if entry.is_dir(follow_symlinks=False) else _OTHER
    except (FileNotFoundError, NotADirectoryError):
        return _Folder(path)
    except OSError as error:
        if fault := machine_fault(error):
            raise fault from error
        return _Folder(path, refused=f"lies in a folder that cannot be listed ({error.strerror}: {path})")
    return _Folder(path, kinds)


def _locate_remote(root: str, uris: Iterable[str]) -> dict[str, Place]:
    places = {uri: _address_remote(root, uri) for uri in uris}
    there = _list_remote([place.address for place in places.values() if not place.refused])
    return {u: p if p.refused else Place(p.address, exists=p.address in there) for u, p in places.items()}


def _address_remote(root: str, uri: str) -> Place:
    if refused := _forbidden(uri):
        return Place(refused=refused)
    if uri.startswith(root + "/"):
        uri = uri.removeprefix(root + "/")
    elif uri.startswith(("s3://", "/")):
        return _outside(root)
    if uri.endswith("/"):
        return Place(refused="names a folder, not a file")
    return Place("/".join([root, *(part for part in uri.split("/") if part not in ("", "."))]))


def _list_remote(addresses: list[str]) -> dict[str, str]:
    """Address and identity of the objects that exist, in few requests: by folder, or all at once for many folders."""
    folders = {address.rpartition("/")[0] for address in addresses}
    deep = len(folders) > _MAX_LISTINGS
    if deep:
        folders = {"s3://" + posixpath.commonpath([folder.removeprefix("s3://") for folder in folders])}
    found = {}
    for folder in sorted(folders):
        for name, info in Store(folder).details(deep=deep).items():
            found[f"{folder}/{name}"] = object_identity(info)
    return found
