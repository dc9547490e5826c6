from functools import cache

import numpy as np
import pytest
import torch
from closeness import assert_close
from pydantic import ValidationError
from transformers import (
    AutoTokenizer,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioModel,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from mer_ray.encoders import joint_audio_text
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.architecture import Architecture
from mer_ray.pretrained.weights import Weights

TOKENIZER = architecture.byte_tokenizer(
    pad_token="<|endoftext|>",
    audio_token="<|AUDIO|>",
    audio_bos_token="<|audio_bos|>",
    audio_eos_token="<|audio_eos|>",
)
AUDIO = {
    "model_type": "qwen2_audio_encoder",
    "num_mel_bins": 16,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "max_source_positions": 250,
}
TEXT = {
    "model_type": "qwen2",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PROMPT = "How? {audio} He said: {text} So:"
SAID = ["I really did not expect that!", "", "你怎么又来了", "no", "Oh no, not again… please?"]
LENGTHS = (24_000, 3_200, 80_000, 51_111, 1_121)


@pytest.fixture(scope="module")
def folder():
    return saved()


def saved(model_class=Qwen2AudioForConditionalGeneration, **options):
    config = Qwen2AudioConfig(audio_config=AUDIO, text_config=TEXT, audio_token_index=1, **options)
    model = architecture.randomly(lambda: model_class(config), seed=3)
    return architecture.keep_files(model, Qwen2AudioProcessor(WhisperFeatureExtractor(16, chunk_length=5), TOKENIZER))


def clips(lengths=LENGTHS, said=SAID):
    rng = np.random.default_rng(1)
    return [
        ClipInput(audio=(0.1 * rng.standard_normal(n)).astype(np.float32), text=text)
        for n, text in zip(lengths, said, strict=True)
    ]


def encoder_of(folder, **options):
    options = {"prompt": PROMPT, **options}
    return joint_audio_text.Encoder(
        joint_audio_text.Config(weights=Weights(source=str(folder)), device="cpu", **options)
    )


@cache
def library(folder):
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder)
    return Qwen2AudioProcessor.from_pretrained(folder), model.eval()


def reference(folder, given, padding_side="left"):
    """Token ids (T,) and all hidden states (T, D) of each clip, by the library's processor and forward in one batch."""
    processor, model = library(folder)
    processor.tokenizer.padding_side = padding_side
    inputs = processor(
        text=[f"How? <|audio_bos|><|AUDIO|><|audio_eos|> He said: {clip.text} So:" for clip in given],
        audio=[clip.audio for clip in given],
        sampling_rate=16_000,
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        made = model(**inputs, output_hidden_states=True)
    kept = inputs["attention_mask"].bool()
    return [
        (inputs["input_ids"][i, kept[i]], [state[i, kept[i]] for state in made.hidden_states])
        for i in range(len(given))
    ]


def from_the_audio_on(ids):
    return slice(int((ids == 1).nonzero()[0]), None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda ids, h: torch.stack(h[-4:]).mean(0)[from_the_audio_on(ids)]),
        ({"tokens": "all", "combine": "sum"}, lambda ids, h: torch.stack(h[-4:]).sum(0)),
        ({"tokens": "audio", "layers": 1}, lambda ids, h: h[5][ids == 1]),
        ({"tokens": "last", "layers": [0, 3], "combine": "concat"}, lambda ids, h: torch.cat([h[0], h[3]], -1)[-1:]),
    ],
    ids=["content", "all", "audio", "last"],
)
def test_it_gives_what_the_library_gives_clip_by_clip(folder, options, expected):
    given = clips()
    encoder = encoder_of(folder, budget=2**40, **options)
    for ours, clip in zip(encoder.encode(given), given, strict=True):
        ((ids, states),) = reference(folder, [clip])
        assert_close(ours, expected(ids, states).numpy())


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_side_of_the_padding_does_not_matter(folder, padding_side):
    given = clips()
    together = reference(folder, given, padding_side)
    for ours, (_, states) in zip(encoder_of(folder, tokens="all").encode(given), together, strict=True):
        assert_close(ours, torch.stack(states[-4:]).mean(0).numpy())


def test_the_default_prompt_asks_for_the_emotion_and_holds_audio_and_transcript():
    prompt = joint_audio_text.Config(weights=Weights(source="random:any")).prompt
    assert "emotion" in prompt
    assert all(name in prompt for name in ("neutral", "anger", "happiness", "sadness", "worry", "surprise"))
    assert prompt.index("?") < prompt.index("{audio}") < prompt.index("{text}")


def test_audio_and_transcript_both_count(folder):
    one, other = clips([16_000, 16_000], ["yes", "yes"])
    unlike = ClipInput(audio=one.audio, text="no!")
    made = encoder_of(folder, tokens="last").encode([one, other, unlike])
    assert np.abs(made[0] - made[1]).max() > 1e-4
    assert np.abs(made[0] - made[2]).max() > 1e-4


def test_the_head_is_not_there_and_layers_behind_the_deepest_are_cut_off(folder):
    encoder = encoder_of(folder, layers=[2])
    encoder.load()
    assert isinstance(encoder._model, Qwen2AudioModel)
    assert len(encoder._model.language_model.layers) == 2


def test_audio_beyond_the_models_window_is_not_heard(folder):
    (long,) = clips([5 * 60 * 16_000], ["yes"])
    first = ClipInput(audio=long.audio[:80_000], text="yes")
    encoder = encoder_of(folder, tokens="audio")
    made = encoder.encode([long, first])
    assert made[0].shape == (125, 32)
    assert_close(made[0], made[1])


@pytest.mark.parametrize("length", [0, 1, 160, 1_119])
def test_very_short_audio_is_padded_with_silence(folder, length):
    (clip,) = clips([length], ["yes"])
    padded = ClipInput(audio=np.pad(clip.audio, (0, 1_120 - length)), text="yes")
    ((ids, states),) = reference(folder, [padded])
    assert_close(encoder_of(folder, layers=1).encode([clip])[0], states[-1][from_the_audio_on(ids)].numpy())


def test_silence_and_an_empty_transcript_are_read_as_such(folder):
    silent = ClipInput(audio=np.zeros(16_000, np.float32), text="")
    for given in (silent, ClipInput(audio=silent.audio, text=None)):
        ((ids, states),) = reference(folder, [silent])
        assert_close(encoder_of(folder, layers=1).encode([given])[0], states[-1][from_the_audio_on(ids)].numpy())


def test_a_long_transcript_is_cut(folder):
    long, cut = clips([16_000, 16_000], ["x" * 5_000, "x" * 12])
    long = ClipInput(audio=cut.audio, text=long.text)
    made = encoder_of(folder, max_characters=12).encode([long, cut])
    assert_close(made[0], made[1])
    assert len(encoder_of(folder).encode([long])[0]) == len(made[0]) - 12 + 1_024


@pytest.mark.parametrize("text", ["<|AUDIO|>", "<|audio_eos|><|endoftext|>", "{audio} {text}", "<<||AUDIO|>"])
def test_a_transcript_cannot_pose_as_anything_else(folder, text):
    (clip,) = clips([16_000], [text])
    encoder = encoder_of(folder, tokens="all")
    (frames,) = encoder.encode([clip])
    plain = len(encoder.encode([ClipInput(audio=clip.audio, text="")])[0])
    assert len(frames) == plain + len(text.replace("<|", "< |"))


@pytest.mark.parametrize("name", joint_audio_text.ARCHITECTURES)
def test_the_published_sizes(name):
    published = joint_audio_text.ARCHITECTURES[name]
    counted = architecture.count_parameters(lambda: Qwen2AudioModel(published.config()))
    assert counted == pytest.approx(published.num_parameters, rel=0.02)
    head = architecture.count_parameters(lambda: Qwen2AudioForConditionalGeneration(published.config())) - counted
    assert counted + head == pytest.approx(8.4e9, rel=0.005)


def test_random_weights_run(monkeypatch):
    small = Architecture(lambda: Qwen2AudioConfig(audio_config=AUDIO, text_config=TEXT), 1, "", "", "")
    monkeypatch.setitem(joint_audio_text.ARCHITECTURES, "small", small)
    given = clips()
    first, second = (encoder_of("random:small", tokens="audio").encode(given) for _ in range(2))
    assert [len(frames) for frames in first] == [37, 5, 125, 80, 2]
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("prompt", ["no places", "{audio}", "{text} {text} {audio}", "{audio} {audio} {text}"])
def test_a_prompt_without_its_places_is_refused(prompt):
    with pytest.raises(ValidationError, match=r"written once each, as \{audio\} and \{text\}"):
        encoder_of("random:any", prompt=prompt)


def test_weights_of_another_family_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ConfigError, match="type 'whisper'; the joint_audio_text plug-in takes qwen2_audio"):
        _ = encoder_of(tmp_path).dim


def test_a_tokenizer_of_another_model_is_refused():
    folder = saved()
    architecture.byte_tokenizer(pad_token="<|endoftext|>", eos_token="</s>", audio_token="<|AUDIO|>").save_pretrained(
        folder
    )
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|AUDIO|>") == 2
    with pytest.raises(PluginError, match=r"<\|AUDIO\|> is 2, the model's 1; it is of another model"):
        encoder_of(folder).load()


def test_a_layer_that_does_not_exist_is_refused(folder):
    with pytest.raises(ConfigError, match="hidden states 0 to 5"):
        _ = encoder_of(folder, layers=[6]).dim
