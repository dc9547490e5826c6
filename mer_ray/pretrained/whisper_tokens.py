"""What Whisper's recognisers share whichever library runs the network: windows of sound, prompts, tokens to words.

Its windows are those of FunASR's recognisers too.

Shapes: S samples, W windows.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mer_ray.errors import PluginError
from mer_ray.types import SAMPLE_RATE_HZ

WINDOW_SECONDS = 30
_TICK_SECONDS = 0.02
_START, _NO_TIMES = "<|startoftranscript|>", "<|notimestamps|>"
_MOST_COMPRESSION = 2.4
_NO_SPEECH_PROBABILITY, _LEAST_SCORE = 0.6, -1.0  # OpenAI's own: of a window with both, nothing is taken for said


@dataclass(frozen=True)
class Spoken:
    """A stretch of a window: seconds from the window's beginning, and its words."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Heard:
    """What was recognised in a window.

    Attributes:
        spoken: in the order of time.
        log_probability: of all its tokens together, the end of the text among them.
        num_tokens: how many those are.
        language: its code.
        seconds: of the window's own sound.
    """

    spoken: Sequence[Spoken]
    log_probability: float
    num_tokens: int
    language: str
    seconds: float


def windows(samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """A waveform (S,) as W equal parts of at most 30 s, side by side; at least one."""
    parts = max(1, math.ceil(len(samples) / (WINDOW_SECONDS * SAMPLE_RATE_HZ)))
    return np.array_split(samples, parts)


def hear_windows(
    waveforms: Sequence[NDArray[np.float32]],
    hear: Callable[[list[NDArray[np.float32]], list[str | None]], Sequence[Heard]],
) -> list[list[Heard]]:
    """What is heard in the windows of each waveform; in silence nothing.

    The first window of a clip tells the language of all, so it is heard before them, whatever clips are beside it.

    Args:
        waveforms: of the clips.
        hear: windows, and of each the language that is known of its clip, to what is said in them.
    """
    split = [windows(samples) if np.any(samples) else [] for samples in waveforms]
    heard: list[list[Heard]] = [[] for _ in waveforms]
    firsts = [(i, parts[0]) for i, parts in enumerate(split) if parts]
    others = [(i, part) for i, parts in enumerate(split) for part in parts[1:]]
    for group in (firsts, others):
        languages = [heard[i][0].language if heard[i] else None for i, _ in group]
        for (i, _), one in zip(group, hear([part for _, part in group], languages), strict=True):
            heard[i].append(one)
    return heard


def is_speech(score: float, no_speech: float) -> bool:
    """Whether what was recognised in a window counts (Whisper, Radford et al. 2022, section 4.5).

    Args:
        score: mean log-probability of its tokens.
        no_speech: the model's probability that nobody speaks.
    """
    return no_speech < _NO_SPEECH_PROBABILITY or score > _LEAST_SCORE


def joined(heard: Sequence[Heard]) -> tuple[list[Spoken], float, str] | None:
    """What is said in a clip, from its windows in their order: stretches, mean log-probability of a token, language.

    None where nothing is.
    """
    spoken, start = [], 0.0
    for one in heard:
        spoken += [Spoken(start + said.start, start + said.end, said.text) for said in one.spoken]
        start += one.seconds
    said = [one for one in heard if one.spoken]
    if not said:
        return None
    score = sum(one.log_probability for one in said) / sum(one.num_tokens for one in said)
    return spoken, min(0.0, score), said[0].language


class WhisperTokens:
    """The tokens of one model.

    Args:
        tokenizer: of the library ``tokenizers``, with Whisper's special tokens.
        is_multilingual: whether a prompt names language and task.
    """

    def __init__(self, tokenizer: Tokenizer, is_multilingual: bool) -> None:
        self.tokenizer = tokenizer
        self.is_multilingual = is_multilingual

    @classmethod
    def load(cls, folder: Path, source: str, is_multilingual: bool) -> WhisperTokens:
        """Those of a folder of weights.

        Raises:
            PluginError: there is no ``tokenizer.json``, or it is not Whisper's.
        """
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises no narrower one
            raise PluginError(f"weights {source}: tokenizer.json cannot be read: {error}") from error
        made = cls(tokenizer, is_multilingual)
        if missing := [token for token in (_START, _NO_TIMES) if tokenizer.token_to_id(token) is None]:
            raise PluginError(f"weights {source}: tokenizer.json is not Whisper's: it lacks {', '.join(missing)}")
        return made

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that a prompt may name."""
        names = (token[2:-2] for token in self.tokenizer.get_vocab() if token.startswith("<|") and token.endswith("|>"))
        return tuple(sorted(name for name in names if name.isalpha() and len(name) in {2, 3}))

    def prompt(self, language: str | None) -> list[str]:
        """The tokens that ask for a transcript with times."""
        asked = [_START]
        return [*asked, f"<|{language}|>", "<|transcribe|>"] if self.is_multilingual else asked

    def loops(self, tokens: Sequence[int]) -> bool:
        """Whether the words repeat themselves so much that they compress by 2.4 (Radford et al. 2022, section 4.5)."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True).strip().encode()
        return len(text) > _MOST_COMPRESSION * len(zlib.compress(text))

    def read(self, tokens: Sequence[int], seconds: float) -> list[Spoken]:
        """What the tokens that a model made of a window say, and when.

        Args:
            tokens: their numbers, without the prompt.
            seconds: of the window's own sound, which no stretch goes beyond.
        """
        before = self.tokenizer.token_to_id(_NO_TIMES)
        assert before is not None
        first = before + 1  # the numbers behind it are times, named or not
        spoken: list[Spoken] = []
        start, words = 0.0, list[int]()
        for token in [*tokens, first + math.ceil(seconds / _TICK_SECONDS)]:
            if token < first:
                words.append(token)
                continue
            time = min((token - first) * _TICK_SECONDS, seconds)
            text = self.tokenizer.decode(words, skip_special_tokens=True).strip()
            if text:
                spoken.append(Spoken(min(start, time), time, text))
            start, words = time, []
        return spoken


def keep_tiny() -> str:
    """A tiny Whisper with random weights, all its parts saved as real files; their folder, see ``keep_files``."""
    from transformers import (  # noqa: PLC0415
        GenerationConfig,
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    from mer_ray.pretrained import architecture  # noqa: PLC0415

    named = ["<|en|>", "<|zh|>"]
    tasks = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", _NO_TIMES]
    times = [f"<|{i * _TICK_SECONDS:.2f}|>" for i in range(WINDOW_SECONDS * 50 + 1)]
    tokenizer = architecture.byte_tokenizer()._tokenizer
    tokenizer.add_special_tokens(["<|endoftext|>", _START, *named, *tasks])
    tokenizer.add_tokens(times)
    number = tokenizer.token_to_id
    sizes = {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    sizes |= {f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")} | {"encoder_layers": 2, "decoder_layers": 2}
    ends = {"eos_token_id": number("<|endoftext|>"), "pad_token_id": number("<|endoftext|>")}
    starts = {"decoder_start_token_id": number(_START), "bos_token_id": number("<|endoftext|>")}
    vocabulary = tokenizer.get_vocab_size()
    config = WhisperConfig(vocab_size=vocabulary, d_model=32, max_target_positions=64, **sizes, **ends, **starts)
    model = architecture.randomly(lambda: WhisperForConditionalGeneration(config))
    model.generation_config = GenerationConfig(
        is_multilingual=True, lang_to_id={name: number(name) for name in named},
        task_to_id={name: number(f"<|{name}|>") for name in ("translate", "transcribe")},
        no_timestamps_token_id=number(_NO_TIMES), max_initial_timestamp_index=50,
        max_length=24, alignment_heads=[[1, 0]],
        begin_suppress_tokens=[number("<|endoftext|>")], suppress_tokens=[number("<|startoflm|>")], **ends, **starts,
    )  # fmt: skip
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    return architecture.keep_files(model, fast, WhisperFeatureExtractor())
