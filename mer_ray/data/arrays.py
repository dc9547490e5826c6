"""``.npy`` files of other people's, read without trusting their header.

NumPy reads a header as Python, of at most 10,000 characters, and lets through whatever goes wrong there; a header that
tells of more numbers than there are makes it ask for their memory first.
"""

from __future__ import annotations

import io
import math
import tokenize
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""By the version of the format; one above these is written for types with names alone."""


_MOST = 2**63


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and type; the file then stands where the numbers begin.

    Raises:
        ValueError: it is no array.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"a .npy file of version {version}")
        shape, is_fortran, dtype = _READERS[version](file)
    except (TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"the header is damaged: {error}") from error  # many signs take all of the parser's stack
    if any(type(length) is not int or not 0 <= length < _MOST for length in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, is_fortran, dtype


def load(data: bytes) -> NDArray[Any]:
    """The array in a file's bytes, over these bytes: it is not to be written to.

    Raises:
        ValueError: see ``read_header``; it holds Python objects, or fewer numbers than it tells of.
    """
    file = io.BytesIO(data)
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    count, start = math.prod(shape), file.tell()
    if count * dtype.itemsize > len(data) - start:
        raise ValueError(f"{len(data) - start} bytes are no {dtype} {shape}")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")
