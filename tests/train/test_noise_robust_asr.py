"""The task beside its contract: from weights with letters and without, what is saved with it, what is left out."""

import made_task
import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from transformers import AutoModel, HubertConfig, Wav2Vec2FeatureExtractor

from mer_ray import config, registry
from mer_ray.config import MineConfig
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ShapeError
from mer_ray.pretrained import architecture
from mer_ray.recognisers import ctc
from mer_ray.tasks import noise_robust_asr
from mer_ray.tasks.noise_robust_asr import Config, Small, Task

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
SMALL = Small(width=32, layers=1)
SAID = ("How lovely!", "lovely day", "go away", "what a day")


@pytest.fixture(scope="module")
def unlettered():
    """A folder of a HuBERT as it is before anyone has taught it letters."""
    model = architecture.randomly(lambda: AutoModel.from_config(HubertConfig(**SIZES)))
    return architecture.keep_files(model, Wav2Vec2FeatureExtractor(do_normalize=False))


def saved(task, tmp_path):
    """The recogniser that the task leaves untrained, and the network it is of."""
    torch.manual_seed(0)
    network = task.build()
    tmp_path.mkdir(exist_ok=True)
    entry = task.save(network.state_dict().items(), tmp_path, str(tmp_path))
    return network, registry.build("recognisers", entry["plugin"], entry["options"]), entry


def test_weights_without_letters_get_a_layer_of_new_ones(unlettered, tmp_path):
    task = Task(Config(weights={"source": unlettered}, letters="abc"), ())
    network, recogniser, _ = saved(task, tmp_path)
    assert network.model.lm_head.out_features == len("abc") + 3
    old = AutoModel.from_pretrained(unlettered).state_dict()
    for name, tensor in network.model.hubert.state_dict().items():
        torch.testing.assert_close(tensor, old[name])
    recogniser.load()
    assert recogniser.vocabulary.tokens[-3:] == ("a", "b", "c")
    assert task.identity != ""


def test_weights_with_letters_keep_theirs(tmp_path):
    given = ctc.tiny()
    task = Task(Config(weights=given.config.weights, letters="abc"), ())
    _, recogniser, _ = saved(task, tmp_path)
    samples = made_task.clip(0).audio
    given.load()
    assert recogniser.transcribe([samples]) == given.transcribe([samples])
    assert recogniser.transcribe([samples])[0].text
    assert len(task.spelled("Hi, you")) == len("hi|you")


def test_models_whose_clips_share_no_batch_are_trained_one_by_one(unlettered):
    task = Task(Config(weights={"source": unlettered}), ())
    batch = made_task.batch(task, [0, 1, 2])
    assert len(batch["inputs"]) == 3
    torch.manual_seed(0)
    loss = task.build()(batch).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_a_narrow_network_begins_with_weights_that_let_its_input_through():
    torch.manual_seed(0)
    layer = Task(Config(small=SMALL), ()).build().model.wav2vec2_bert.encoder.layers[0]
    assert layer.ffn1.intermediate_dense.weight.std().item() == pytest.approx(SMALL.width**-0.5, rel=0.1)


def test_the_loss_is_the_mean_of_each_clips_own():
    """Clips of other lengths in the batch change nothing: what is padded is not heard, and not counted."""
    task = Task(Config(small=SMALL, mixing={"noise_share": 0, "speakers_share": 0}), ())
    network = task.build().eval()
    with torch.no_grad():
        together = network(made_task.batch(task, [0, 1, 2])).loss
        alone = [network(made_task.batch(task, [row])).loss for row in (0, 1, 2)]
    assert together.item() == pytest.approx(np.mean(alone), rel=1e-4)


def test_text_is_saved_as_lexicon_and_ngram_that_the_beam_reads(tmp_path):
    task = Task(Config(small=SMALL), ())
    task = Task(task.taught(SAID), ())
    _, recogniser, entry = saved(task, tmp_path)
    assert entry["options"]["decoder"] == "beam"
    words = {line.split("\t")[0] for line in (tmp_path / noise_robust_asr.LEXICON).read_text().splitlines()}
    assert words == {"how", "lovely", "day", "go", "away", "what", "a"}
    assert "\tlovely day" in (tmp_path / noise_robust_asr.ARPA).read_text()
    (heard,) = recogniser.transcribe([made_task.clip(0).audio])
    assert set(heard.text.split()) <= words
    assert Task(Config(small=SMALL, sentences=("so",)), ()).taught(SAID).sentences == ("so",)


def test_a_job_transcribes_by_what_was_trained(tmp_path):
    task = Task(Config(small=SMALL), ())
    _, _, entry = saved(task, tmp_path / "weights")
    (tmp_path / "robust.yaml").write_text(yaml.safe_dump(task.section("robust", entry)))
    job = config.load(MineConfig, tmp_path / "robust.yaml")
    assert job.transcribe.enabled
    built = registry.build("recognisers", job.transcribe.recogniser.name, job.transcribe.recogniser.options)
    assert isinstance(built, ctc.Recogniser)


@pytest.mark.parametrize(
    ("text", "seconds", "good"),
    [
        ("a day", 1.0, True),
        ("", 1.0, False),
        ("!?", 1.0, False),
        ("a day", 0.1, False),
        ("lll", 0.12, False),
        ("a", 9.0, False),
    ],
)
def test_clips_without_letters_or_with_more_than_they_can_hold_are_left_out(text, seconds, good):
    task = Task(Config(small=SMALL, max_seconds=8), ())
    samples = np.zeros(int(seconds * 16000), np.float32)
    assert task.usable(ClipInput(audio=samples, text=text)) == good


def test_clips_are_mixed_anew_and_masked():
    plain, noisy, masked = (
        Task(Config(small=SMALL, mixing=mixing), ())
        for mixing in (
            {"speakers_share": 0, "speeds": (1.0,)},
            {"clean_share": 0, "speeds": (1.0,)},
            {"speakers_share": 0, "speeds": (1.0,), "mask_bands": 20, "mask_frames": 20},
        )
    )

    def heard(task, seed):
        return made_task.batch(task, [0, 3], seed)["inputs"][0]["input_features"]

    assert torch.equal(heard(plain, 0), heard(plain, 1))
    assert not torch.equal(heard(noisy, 0), heard(plain, 0))
    assert not torch.equal(heard(noisy, 0), heard(noisy, 1))
    assert 0.3 < (heard(masked, 0) == heard(plain, 0)).float().mean() < 1


@pytest.mark.parametrize("how", ["adapters", "prompts", "frozen"])
def test_what_a_recogniser_cannot_be_saved_with_is_refused(how):
    with pytest.raises(ValidationError, match="takes full, partial or lora"):
        Config(tuning={"how": how})


def test_what_was_trained_hears_a_clip_alone_as_among_others(tmp_path):
    """Longer clips beside it, an odd number of mel frames, and hardly any sound at all."""
    _, recogniser, _ = saved(Task(Config(small=SMALL), ()), tmp_path)
    recogniser.load()
    rng = np.random.default_rng(0)
    sounds = [(0.1 * rng.normal(size=size)).astype(np.float32) for size in (16000, 16160, 400, 800, 24000)]
    together = recogniser.log_probabilities(recogniser.inputs(sounds)[0]).apart()
    for sound, found in zip(sounds, together, strict=True):
        (alone,) = recogniser.log_probabilities(recogniser.inputs([sound])[0]).apart()
        assert len(found) == len(alone) >= 1
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match="window_seconds"):
        recogniser.inputs([np.ones(31 * 16000, np.float32)])
