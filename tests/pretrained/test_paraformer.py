"""Paraformer against FunASR's own: what funasr 1.4.16 gave with the same weights; its line of weights by loops."""

import numpy as np
import pytest
import torch
from closeness import assert_close
from golden_weights import fill, wave

from mer_ray.pretrained.paraformer import Paraformer, integrate

SMALL = {"output_size": 16, "attention_heads": 4, "linear_units": 24, "num_blocks": 3, "decoder_blocks": 2}
SMALL |= {"kernel_size": 5, "sanm_shfit": 1}
FUNASR = {
    (0, 0): [-1.79468, -1.93097, -1.94263, -3.06246, -2.58124, -1.15254, -2.23307],
    (0, 3): [-2.84644, -1.06415, -1.22670, -2.12385, -3.01273, -2.86268, -2.55327],
    (1, 0): [-1.09531, -2.60479, -2.22085, -2.69825, -2.93410, -1.39508, -2.16447],
    (1, 1): [-1.06510, -2.91559, -3.05867, -2.37535, -3.31738, -1.18291, -2.13227],
}
"""Log-probabilities of the funasr package for sounds of 9 and of 5 frames, each alone: by sound and token."""
ENDS = [[1, 4, 6, 8], [2, 4]]


@pytest.fixture(scope="module")
def model():
    return fill(Paraformer(14, 7, **SMALL))


def test_it_gives_what_funasr_gives(model):
    made = model(wave(2, 9, 14), torch.arange(9) < torch.tensor([[9], [5]]))
    assert made.counts_B.tolist() == [4, 2]
    assert [row[:count] for row, count in zip(made.ends_BN.tolist(), [4, 2], strict=True)] == ENDS
    for (sound, token), expected in FUNASR.items():
        np.testing.assert_allclose(made.logp_BNV[sound, token].detach(), expected, atol=2e-5)


def test_what_is_padded_changes_neither_tokens_nor_how_many_there_are(model):
    frames = wave(2, 9, 14)
    own = torch.arange(9) < torch.tensor([[9], [5]])
    made = model(frames, own)
    frames[1, 5:] = 1e3
    again, alone = model(frames, own), model(frames[1:, :5])
    assert alone.counts_B.tolist() == [2]
    assert torch.equal(made.logp_BNV[1, :2], again.logp_BNV[1, :2])
    assert_close(made.logp_BNV[1, :2].detach().numpy(), alone.logp_BNV[0].detach().numpy(), spread=1e-5)


def test_a_sound_without_a_token_has_an_empty_place(model):
    made = model(0.0 * wave(1, 1, 14))
    assert (made.counts_B.tolist(), made.logp_BNV.shape) == ([0], (1, 1, 7))


@pytest.mark.parametrize("seed", range(5))
def test_tokens_end_where_weights_add_up_to_one_frame_by_frame(seed):
    generator = torch.Generator().manual_seed(seed)
    frames, weights = (torch.rand(1, 30, size, generator=generator) for size in (3, 1))
    expected, ends, so_far, held = [], [], torch.zeros(3), 0.0
    for t, (frame, weight) in enumerate(
        [*zip(frames[0], weights[0, :, 0].tolist(), strict=True), (torch.zeros(3), 0.45)]
    ):
        if held + weight < 1:
            so_far, held = so_far + weight * frame, held + weight
            continue
        expected.append(so_far + (1 - held) * frame)
        ends.append(t)
        held = held + weight - 1
        so_far = held * frame
    sums, counts, found = integrate(frames, weights[..., 0], 0.45)
    assert counts.tolist() == [len(expected)]
    assert found[0].tolist() == ends
    assert_close(sums[0].numpy(), torch.stack(expected).numpy())


def test_its_parameters_are_named_and_shaped_as_in_the_published_checkpoint():
    with torch.device("meta"):
        model = Paraformer(560, 8404)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {
        "encoder.encoders0.0.self_attn.linear_q_k_v.weight": (1536, 560),
        "encoder.encoders.48.norm2.weight": (512,),
        "encoder.after_norm.bias": (512,),
        "predictor.cif_conv1d.weight": (512, 512, 3),
        "predictor.cif_output.weight": (1, 512),
        "decoder.decoders.15.self_attn.fsmn_block.weight": (512, 1, 11),
        "decoder.decoders.15.src_attn.linear_k_v.weight": (1024, 512),
        "decoder.decoders.0.src_attn.linear_q.bias": (512,),
        "decoder.decoders.0.feed_forward.norm.weight": (2048,),
        "decoder.decoders.0.norm3.bias": (512,),
        "decoder.decoders3.0.feed_forward.w_2.weight": (512, 2048),
        "decoder.decoders3.0.norm1.weight": (512,),
        "decoder.output_layer.weight": (8404, 512),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert len(shapes) == 955
