"""What a run directory tells about its run: the resolved config, the environment, and one line per change of state."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import platform
import re
import subprocess
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psutil
import torch
import yaml

from mer_ray import __version__, config
from mer_ray.data.storage import Store

_VERSIONS_OF = ("ray", "torch", "transformers", "pyarrow", "numpy", "av", "opensmile", "scikit-learn", "deepspeed")
_SECRET_KEY = re.compile(r"secret|token(?!s)|password|credential|api_?key", re.IGNORECASE)  # tokens are counted
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_URL_SECRET = re.compile(r"(?i)([?&][^=&\s]*(?:signature|token|secret|credential|key)[^=&\s]*=)[^&\s]+")
_HIDDEN = "***"
_EVENTS = "_events"


class Journal:
    """Writes ``config.yaml``, ``environment.json`` and ``events.jsonl``. Secrets are redacted in all three.

    A bucket appends nothing: there an event is an object in ``_events/``, so that no writer loses another's, and
    ``events.jsonl`` is put together of them at the end of the job, as well as it may end.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._order = itertools.count()

    def open(self, settings: config.Section) -> None:
        """Write the config, with its digest, and the environment, and note the start."""
        tree = redact(settings.model_dump(mode="json"))
        digest = config.digest(settings)
        text = f"# digest: {digest}\n" + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        self.store.write("config.yaml", text.encode())
        self.store.write("environment.json", json.dumps(environment(), indent=2).encode())
        self.event("run_started", config_digest=digest)
        if not self.store.is_local:
            atexit.register(self.gather)

    def event(self, kind: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON takes
        """Add one line to ``events.jsonl``."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": kind, **redact(fields)})
        if self.store.is_local:
            with open(self.store.path("events.jsonl"), "ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                cut_short = file.read(1) not in (b"", b"\n")
                file.write(b"\n" * cut_short + line.encode() + b"\n")
        else:
            self.store.write(f"{_EVENTS}/{now}.{next(self._order):06}.{uuid.uuid4().hex[:8]}", line.encode())

    def events(self) -> list[dict[str, Any]]:
        """Every event so far, of earlier starts too; a line cut short by a kill is passed over."""
        events = []
        for line in self._lines().splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return events

    def work(self) -> dict[str, dict[str, float]]:
        """Per step, the ``seconds`` and ``clips`` of all its starts together."""
        totals: dict[str, dict[str, float]] = defaultdict(lambda: {"seconds": 0.0, "clips": 0.0})
        for event in self.events():
            if event["event"] == "step_done":
                totals[event["step"]]["seconds"] += event["seconds"]
                totals[event["step"]]["clips"] += event["clips"]
        return dict(totals)

    def gather(self) -> None:
        """Make ``events.jsonl`` whole, in a bucket."""
        if lines := self._lines():
            self.store.write("events.jsonl", lines)

    def _lines(self) -> bytes:
        try:
            gathered = self.store.read("events.jsonl")
        except FileNotFoundError:
            gathered = b""
        if self.store.is_local:
            return gathered
        single = (self.store.read(f"{_EVENTS}/{name}") for name in self.store.files(_EVENTS))
        return b"".join(line + b"\n" for line in dict.fromkeys([*gathered.splitlines(), *single]))


def environment() -> dict[str, Any]:
    """Versions (None: not installed), hardware and the repository's commit."""
    return {
        "mer_ray": __version__,
        "git": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in _VERSIONS_OF},
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def redact(value: Any) -> Any:  # noqa: ANN401 - a JSON tree
    """A JSON tree without its secrets: values of telling keys, logins and signatures inside addresses.

    >>> redact({"api_key": "k", "uri": "s3://me:pw@bucket/x"})
    {'api_key': '***', 'uri': 's3://***@bucket/x'}
    """
    if isinstance(value, dict):
        return {
            key: _HIDDEN if _SECRET_KEY.search(str(key)) and inner else redact(inner) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    if isinstance(value, str):
        return _URL_SECRET.sub(rf"\1{_HIDDEN}", _URL_LOGIN.sub(f"{_HIDDEN}@", value))
    return value


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    command = ["git", "-C", str(config.REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
