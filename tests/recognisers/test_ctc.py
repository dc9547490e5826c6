import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mer_ray.errors import PluginError
from mer_ray.pretrained import extras
from mer_ray.pretrained.ctc import Beam, Greedy, Search, Vocabulary
from mer_ray.pretrained.weights import Weights
from mer_ray.recognisers import ctc

NAMES = ["<pad>", "<unk>", "|", "a", "b"]
LEXICON = "ab\ta b |\nba\tb a |\nabba\ta b b a |\n"
ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-99\t<s>\t0
-1\t</s>
-9\t<unk>
-0.5\tab\t0
-0.5\tba\t0
-5\tabba\t0

\\2-grams:
-0.01\t<s> ab
-3\t<s> ba
-0.01\tab ab

\\end\\
"""


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.of(ctc.tokenizer(NAMES), 0)


def frames(path, sure=0.9):
    """Log-probabilities whose likeliest token in each frame is that of ``path``."""
    p = torch.full((len(path), len(NAMES)), (1 - sure) / (len(NAMES) - 1))
    for t, letter in enumerate(path):
        p[t, ["-", "?", "|", "a", "b"].index(letter)] = sure
    return p.log()


def search(tmp_path, language_model=True, **more):
    (tmp_path / "lexicon.txt").write_text(LEXICON)
    (tmp_path / "words.arpa").write_text(ARPA)
    options = {"size": 20, "threshold": 50.0, "language_weight": 2.0, "word_score": 0.0} | more
    return Search(tmp_path / "lexicon.txt", tmp_path / "words.arpa" if language_model else None, **options)


def test_letters_are_merged_over_frames_unless_a_blank_parts_them(vocabulary):
    found = Greedy(vocabulary).decode(frames("-aab-b||a-?-"))
    assert found.words == ("abb", "a")
    assert found.spans == ((1, 6), (8, 9))
    assert found.score == pytest.approx(np.log(0.9), abs=1e-5)


def test_nothing_is_found_where_every_frame_is_blank(vocabulary):
    found = Greedy(vocabulary).decode(frames("-----"))
    assert (found.words, found.spans, found.score) == ((), (), None)


def test_the_beam_finds_words_of_the_lexicon_alone(vocabulary, tmp_path):
    heard = frames("-a-b-|-b-b-|")
    assert Greedy(vocabulary).decode(heard).words == ("ab", "bb")
    found = Beam(vocabulary, search(tmp_path, language_model=False)).decode(heard)
    assert found.words[0] == "ab"
    assert set(found.words) <= {"ab", "ba", "abba"}
    assert len(found.spans) == len(found.words)
    assert found.score < np.log(0.9)


def test_the_language_model_turns_what_sounds_alike(vocabulary, tmp_path):
    """Both readings are as likely by their sound but for a little; the n-gram has hardly seen the likelier one."""
    heard = torch.full((3, len(NAMES)), 0.01)
    heard[0, [3, 4]] = torch.tensor([0.45, 0.52])
    heard[1, [3, 4]] = torch.tensor([0.52, 0.45])
    heard[2, 2] = 0.96
    heard = (heard / heard.sum(dim=1, keepdim=True)).log()
    assert Beam(vocabulary, search(tmp_path, language_model=False)).decode(heard).words == ("ba",)
    assert Beam(vocabulary, search(tmp_path)).decode(heard).words == ("ab",)


def test_a_beam_without_a_lexicon_spells_freely(vocabulary):
    beam = Beam(vocabulary, Search(None, None, 20, 50.0, 0.0, 0.0))
    assert beam.decode(frames("-aab-b||a---")).words == ("abb", "a")
    assert pickle.loads(pickle.dumps(beam)).decode(frames("-a-|b---")).words == ("a", "b")


def test_a_damaged_language_model_is_named(vocabulary, tmp_path):
    wanted = search(tmp_path)
    wanted.language_model.write_text("no ARPA file")
    with pytest.raises(PluginError, match=r"words\.arpa"):
        Beam(vocabulary, wanted).decode(frames("-a-b-"))


def test_without_its_library_the_beam_says_how_to_get_it(vocabulary, monkeypatch):
    def missing(package):
        raise extras.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(extras.metadata, "version", missing)
    with pytest.raises(PluginError, match=r"pip install 'mer_ray\[speech\]'"):
        Beam(vocabulary, Search(None, None, 20, 50.0, 0.0, 0.0))


def test_files_without_a_beam_are_refused(tmp_path):
    weights = Weights(source="random:wav2vec2-base-960h")
    with pytest.raises(ValidationError, match="decoder=beam"):
        ctc.Config(weights=weights, lexicon=str(tmp_path))
    with pytest.raises(ValidationError, match="give the lexicon"):
        ctc.Config(weights=weights, decoder="beam", language_model=str(tmp_path))


@pytest.fixture(scope="module")
def tiny():
    recogniser = ctc.tiny()
    recogniser.load()
    return recogniser


def sound(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=int(seconds * 16000))).astype(np.float32)


def reference(source, samples):
    """The library's own logits of one clip."""
    from transformers import AutoFeatureExtractor, AutoModelForCTC  # noqa: PLC0415

    inputs = AutoFeatureExtractor.from_pretrained(source)(samples, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return AutoModelForCTC.from_pretrained(source).eval()(inputs.input_values).logits[0].log_softmax(dim=-1)


def test_it_hears_what_the_librarys_model_hears(tiny):
    samples = sound(1.3)
    expected = Greedy(tiny._decoder.vocabulary).decode(reference(tiny.config.weights.source, samples))
    found, beside = tiny.transcribe([samples, sound(0.7, 1)])
    assert found.text == " ".join(expected.words).lower()
    assert found.text
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    assert found.confidence == pytest.approx(np.exp(expected.score), abs=1e-4)
    assert [segment.text for segment in found.segments] == found.text.split()
    times = [time for segment in found.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 1.3
    assert beside == tiny.transcribe([sound(0.7, 1)])[0]


def test_a_long_clip_is_read_in_windows():
    config = ctc.tiny().config
    whole, cut = (ctc.Recogniser(config.model_copy(update={"window_seconds": s})) for s in (30.0, 1.0))
    assert [len(one._windows(0, sound(2.5))) for one in (whole, cut)] == [1, 3]
    assert cut.transcribe([sound(2.5)])[0].segments[-1].end <= 2.5


def test_what_the_words_are_found_with_is_part_of_the_identity(tiny, tmp_path):
    search(tmp_path)
    files = {"lexicon": str(tmp_path / "lexicon.txt"), "language_model": str(tmp_path / "words.arpa")}
    beam = ctc.Recogniser(tiny.config.model_copy(update={"decoder": "beam", **files}))
    other = shutil.copy(tmp_path / "words.arpa", tmp_path / "other.arpa")
    (tmp_path / "other.arpa").write_text(ARPA.replace("-3", "-2"))
    changed = ctc.Recogniser(beam.config.model_copy(update={"language_model": str(other)}))
    assert len({tiny.identity, beam.identity, changed.identity}) == 3
    assert beam.spec_options == changed.spec_options != tiny.spec_options
    assert not {"weights", "device", "budget", "lexicon"} & beam.spec_options.keys()


def test_a_vocabulary_of_another_size_is_refused(tiny, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(tiny.config.weights.source, folder)
    numbers = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(numbers | {"é": len(numbers)}))
    with pytest.raises(PluginError, match=r"tokens in vocab\.json"):
        ctc.Recogniser(ctc.Config(weights=Weights(source=str(folder)))).load()
    (folder / "vocab.json").unlink()
    with pytest.raises(PluginError, match=r"no vocab\.json"):
        ctc.Recogniser(ctc.Config(weights=Weights(source=str(folder)))).load()


@pytest.mark.parametrize("name", ctc.ARCHITECTURES)
def test_published_sizes(name):
    recogniser = ctc.Recogniser(ctc.Config(weights=Weights(source=f"random:{name}")))
    published = ctc.ARCHITECTURES[name].num_parameters
    assert ctc.architecture.count_parameters(recogniser.empty) == pytest.approx(published, rel=0.02)
