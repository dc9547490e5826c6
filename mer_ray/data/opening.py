"""Open a file that a manifest names. Imports nothing heavy: the decoder's child process does this too."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import BinaryIO

from mer_ray.errors import ClipError, Reason

_MAX_PATH_BYTES = 1024  # of F_GETPATH, which is macOS's


def open_beneath(path: str, root: str | None) -> BinaryIO:
    """Open a plain file to read, if it lies beneath ``root`` (None: anywhere).

    Where it lies is asked of the opened file, not of ``path``: a symlink may have been put there since the manifest was
    held to the root, or be put there at this moment.

    Raises:
        ClipError: ``missing_file``, or ``forbidden_format``: it lies outside, or is no plain file.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)  # a pipe would block
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ClipError(Reason.MISSING_FILE, f"{path} does not exist") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ClipError(Reason.FORBIDDEN_FORMAT, f"{path} is no plain file")
        if root is not None and not is_beneath(_real_path(descriptor), os.path.realpath(root)):
            raise ClipError(
                Reason.FORBIDDEN_FORMAT,
                f"{path} leads out of the media root {root}, by a symlink put there since the manifest was read",
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_beneath(real_path: str, real_root: str) -> bool:
    """Whether a path without symlinks is a root or lies beneath it.

    >>> is_beneath("/a/b", "/a"), is_beneath("/ab", "/a")
    (True, False)
    """
    return real_path == real_root or real_path.startswith(real_root.rstrip("/") + "/")


def _real_path(descriptor: int) -> str:
    """Where the system says that an opened file lies."""
    if hasattr(fcntl, "F_GETPATH"):
        return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(_MAX_PATH_BYTES)).rstrip(b"\0"))
    return os.readlink(f"/proc/self/fd/{descriptor}")
