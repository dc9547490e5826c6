"""What the numbers of a model's tokens stand for, from the files of FunASR's models."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mer_ray.errors import PluginError

TOKENS = "tokens.json"
"""Name of a file that lists the tokens in the order of their numbers."""
NO_WORD = re.compile(r"<(\|.*\||unk|s|/s|blank)>")
"""Tokens that are never written: blank, unknown, start, end, and tags."""


def load(folder: Path, source: str, count: int | None = None) -> list[str]:
    """The tokens of a folder of weights in the order of their numbers.

    They are those of ``tokens.json``, or of SentencePiece's ``*.model`` where that is missing.

    Args:
        folder: of ``weights.fetch``.
        source: the folder as the user knows it.
        count: how many the model knows, if that is known.

    Raises:
        PluginError: there is no such file, it holds something else, or another number of tokens.
    """
    models = sorted(folder.glob("*.model"))
    file = folder / TOKENS if (folder / TOKENS).exists() or not models else models[0]
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.name == TOKENS else _of_sentencepiece(file)
    except (OSError, ValueError) as error:
        raise PluginError(f"weights {source}: {file} cannot be read: {error}") from error
    if not isinstance(found, list) or count not in {None, len(found)}:
        what = f"{len(found)} tokens" if isinstance(found, list) else "no list of tokens"
        told = "" if count is None else f", the model knows {count}"
        raise PluginError(f"weights {source}: {file} holds {what}{told}")
    return [str(token) for token in found]


def _of_sentencepiece(file: Path) -> list[str]:
    from transformers.convert_slow_tokenizer import import_protobuf  # noqa: PLC0415

    model = import_protobuf().ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's own, which is a dependency of dependencies
        raise ValueError(f"no model of SentencePiece: {error}") from error
    return [piece.piece for piece in model.pieces]


class Pieces:
    """Tokens that are kept beside a tiny model.

    Args:
        tokens: in the order of their numbers.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``tokens.json`` into a folder that is there."""
        Path(folder, TOKENS).write_text(json.dumps(self.tokens, ensure_ascii=False), encoding="utf-8")
