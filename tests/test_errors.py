"""Whom an exception blames: the clip, or the machine."""

import ast
import errno
import os
from pathlib import Path

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from botocore.parsers import ResponseParserError
from s3fs.errors import translate_boto_error

from mer_ray import config
from mer_ray.errors import ClipError, CorruptPartError, MachineFault, NoMemoryFault, Reason, StorageError, machine_fault

ROOT = Path(config.REPOSITORY)
NOT_OF_CLIPS = {
    "benchmarks/extract.py": "the others are still measured, and this one is told",
    "data/corpora.py": "a file given whole to the job",
    "pipelines/command.py": "the last line of a job, which tells anything",
    "pipelines/train_encoder.py": "raised again",
    "pretrained/pieces.py": "a vocabulary given to the job",
    "pretrained/unpickle.py": "a file given to be converted",
    "pretrained/weights.py": "weights given to the job",
    "pretrained/whisper_tokens.py": "a vocabulary given to the job",
    "progress.py": "whoever listens to progress",
    "runtime/head.py": "a head that does not answer, which Ray sees to",
    "runtime/session.py": "starting and ending Ray",
    "tune/recorder.py": "raised again",
    "tune/search.py": "a trial, tried again and told",
}
"""Files with a broad ``except`` that blames no clip, and what it is for."""
CARRIED = {("runtime/stream.py", "_prepare"), ("runtime/stream.py", "read")}
"""Functions whose broad ``except`` hands on what it caught to one that sorts it."""


class OutOfMemoryError(RuntimeError):
    """As torch calls it where a GPU has no room."""


def response(status, code):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    "name",
    ["ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "EIO", "ESTALE", "EACCES", "EROFS", "ECONNREFUSED", "ETIMEDOUT", "EAGAIN"],
)
def test_what_the_system_refuses_is_the_machine_s(name):
    number = getattr(errno, name)
    assert isinstance(machine_fault(OSError(number, os.strerror(number))), MachineFault)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory"), pa.ArrowMemoryError("no room")])
def test_memory_is_told_apart(error):
    assert isinstance(machine_fault(error), NoMemoryFault)
    with pytest.raises(MemoryError) as caught:
        np.empty((2**62,), np.uint8)
    assert isinstance(machine_fault(caught.value), NoMemoryFault)


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="s3"),
        response(403, "AccessDenied"),
        response(503, "SlowDown"),
        response(500, "X"),
        aiohttp.ClientPayloadError("Response payload is not completed"),
        ResponseParserError("Unable to parse response"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_what_s3_refuses_is_the_storage_s(error):
    assert isinstance(machine_fault(error), StorageError)
    assert machine_fault(translate_boto_error(error)), "as s3fs raises it"


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA driver error: unknown error",
    ],
)
def test_a_broken_device_is_the_machine_s(message):
    assert machine_fault(RuntimeError(message))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no video"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        OSError("no Parquet"),
        OSError(errno.ENAMETOOLONG, "too long"),
        ClipError(Reason.TIMEOUT, "too slow"),
        RuntimeError("the model fell over"),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        response(404, "NoSuchKey"),
        AssertionError(),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_what_may_be_the_input_s_is_not_the_machine_s(error):
    assert machine_fault(error) is None


def test_what_an_error_was_raised_from_counts():
    error = ValueError("cannot read the file")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert "Too many open files" in str(machine_fault(error))
    corrupt = CorruptPartError("part")
    assert machine_fault(corrupt) is corrupt


def test_a_damaged_file_of_parquet_is_not_the_machine_s(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises((pa.ArrowException, OSError)) as caught:
        pq.read_table(path, memory_map=True)
    assert machine_fault(caught.value) is None


def _broad(handler: ast.ExceptHandler) -> bool:
    names = [handler.type] if not isinstance(handler.type, ast.Tuple) else handler.type.elts
    return any(
        name is None or (isinstance(name, ast.Name) and name.id in ("Exception", "BaseException")) for name in names
    )


def _unsorted(path: Path) -> set[tuple[str, str]]:
    """The file and the innermost function of each broad ``except`` that calls no ``machine_fault``."""
    found: set[tuple[str, str]] = set()

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.ExceptHandler) and _broad(node):
            called = {
                one.func.id for one in ast.walk(node) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)
            }
            last = node.body[-1]
            is_passed_on = isinstance(last, ast.Raise) and last.exc is None
            if "machine_fault" not in called and not is_passed_on:
                found.add((path.relative_to(ROOT / "mer_ray").as_posix(), function))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def test_every_broad_except_sorts_what_it_caught_or_is_known():
    unsorted = {place for path in (ROOT / "mer_ray").rglob("*.py") for place in _unsorted(path)}
    assert {place for place in unsorted if place[0] not in NOT_OF_CLIPS} == CARRIED
    assert {place[0] for place in unsorted} >= NOT_OF_CLIPS.keys(), "a file is listed and has none"
