"""Addresses that are refused wherever one may stand: Google's own, whose buckets are reached by the S3 protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_GOOGLE = re.compile(r"gc?s://", re.IGNORECASE)
INSTEAD = (
    "gs:// is not read or written: name the bucket as s3://bucket/... and reach it by its S3-compatible endpoint, with "
    "AWS_ENDPOINT_URL=https://storage.googleapis.com and an HMAC key of the bucket in AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY (docs/s3.md). Its puts are not conditional: two jobs at once on one table or run directory "
    "are not kept apart there"
)


def refusal(address: str) -> str | None:
    """Why an address is refused and what to give instead, or None. It is not repeated: it may carry a secret.

    >>> refusal("s3://bucket/clips.csv") is None
    True
    """
    return INSTEAD if _GOOGLE.match(address) else None


def refused(tree: Any, key: str = "") -> Iterator[str]:  # noqa: ANN401 - whatever a config holds
    """The keys beneath ``tree`` whose values are refused, such as ``run.dir``.

    >>> list(refused({"run": {"dir": "gs://b/run"}, "labels": ["a"]}))
    ['run.dir']
    """
    if isinstance(tree, str):
        if refusal(tree):
            yield key
    elif isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from refused(value, f"{key}.{name}" if key else str(name))
