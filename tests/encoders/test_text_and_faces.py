import numpy as np
import pytest

from mer_ray.encoders import audio_text, hog, ngrams
from mer_ray.encoders.base import ClipInput


def embed(text):
    return ngrams.Encoder(ngrams.Config()).encode([ClipInput(text=text)])[0][0]


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("I am so happy today", "so happy I am", "the train leaves at nine"),
        ("我今天非常高兴", "今天我很高兴", "火车九点出发吗"),
    ],
)
def test_like_texts_are_near_in_any_script(text, near, far):
    assert embed(text) @ embed(near) > embed(text) @ embed(far) + 0.2


def test_punctuation_counts_and_halves_have_unit_length():
    assert np.abs(embed("really!") - embed("really?")).max() > 0.05
    halves = embed("really, you too?").reshape(2, 256)
    np.testing.assert_allclose(np.linalg.norm(halves, axis=1), 1, rtol=1e-5)
    assert not embed("").any()


def test_hog_tells_lines_by_their_direction():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::8] = stripes[1::8] = stripes[2::8] = stripes[3::8] = 255
    upright = np.ascontiguousarray(stripes.transpose(1, 0, 2))
    lying, standing = hog.Encoder(hog.Config()).encode([ClipInput(faces=stripes[None]), ClipInput(faces=upright[None])])
    bins = [frames.reshape(-1, 9).sum(axis=0) for frames in (lying, standing)]
    assert bins[0].argmax() != bins[1].argmax()


def test_hog_rows_follow_the_frames():
    faces = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)
    encoder = hog.Encoder(hog.Config(cell=16))
    frames = encoder.encode([ClipInput(faces=faces)])[0]
    assert frames.shape == (4, 144)
    np.testing.assert_array_equal(frames[2], encoder.encode([ClipInput(faces=faces[2:3])])[0][0])


def test_the_joint_encoder_hears_a_word_differently_in_another_voice():
    t = np.arange(16_000) / 16_000
    soft, loud = (gain * np.sin(2 * np.pi * 150 * t).astype(np.float32) for gain in (0.01, 0.5))
    encoder = audio_text.Encoder(audio_text.Config())
    clips = [ClipInput(audio=a, text=x) for a in (soft, loud) for x in ("oh no", "why")]
    rows = [frames[0] for frames in encoder.encode(clips)]
    crossed = [row[11 + 16 :] for row in rows]
    interaction = crossed[0] - crossed[1] - crossed[2] + crossed[3]
    assert np.abs(interaction).max() > 0.05  # no sum of a voice part and a word part gives this
    np.testing.assert_allclose(rows[0][11:27], rows[2][11:27])  # the words alone are the same
