"""MossFormer2 by its parts, each against the plainest way to compute it, and by the names of its parameters."""

import pytest
import torch
from closeness import assert_close

from mer_ray.pretrained import mossformer2
from mer_ray.pretrained.architecture import randomly
from mer_ray.pretrained.mossformer2 import MossFormer2

SMALL = {"encoder_embedding_dim": 12, "mossformer_sequence_dim": 16, "num_mossformer_layer": 2}
SMALL |= {"memory_channels": 8, "query_key_dim": 8, "group_size": 16}


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return MossFormer2()


def test_its_parameters_are_named_and_shaped_as_in_the_published_checkpoint(published):
    shapes = {name: tuple(tensor.shape) for name, tensor in published.state_dict().items()}
    stack = "mask_net.mdl.intra_mdl.mossformerM"
    expected = {
        "enc.conv1d.weight": (512, 1, 16),
        "dec.weight": (512, 1, 16),
        "mask_net.norm.weight": (512,),
        "mask_net.pos_enc.inv_freq": (256,),
        "mask_net.conv1d_out.weight": (1024, 512, 1),
        "mask_net.output_gate.0.bias": (512,),
        "mask_net.mdl.intra_norm.bias": (512,),
        "mask_net.mdl.intra_mdl.norm.weight": (512,),
        f"{stack}.layers.23.rotary_pos_emb.freqs": (16,),
        f"{stack}.layers.23.to_hidden.mdl.0.g": (1,),
        f"{stack}.layers.0.to_hidden.mdl.1.weight": (2048, 512),
        f"{stack}.layers.0.to_out.mdl.1.weight": (512, 1024),
        f"{stack}.layers.0.to_qk.mdl.3.sequential.1.conv.weight": (128, 1, 17),
        f"{stack}.layers.0.qk_offset_scale.gamma": (4, 128),
        f"{stack}.fsmn.23.conv1.1.weight": (1,),
        f"{stack}.fsmn.0.gated_fsmn.to_u.mdl.0.bias": (256,),
        f"{stack}.fsmn.0.gated_fsmn.fsmn.project.weight": (256, 256),
        f"{stack}.fsmn.0.gated_fsmn.fsmn.conv.conv2.weight": (256, 2, 39, 1),
        f"{stack}.fsmn.0.gated_fsmn.fsmn.conv.prelu2.weight": (256,),
        f"{stack}.fsmn.0.conv2.weight": (512, 256, 1),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert len(shapes) == 1099


@pytest.mark.parametrize("num_samples", [24, 25, 31, 400, 1000])
def test_voices_are_as_long_as_the_mixture(num_samples):
    model = randomly(lambda: MossFormer2(**SMALL)).eval()
    voices = model(torch.randn(3, num_samples))
    assert voices.shape == (3, 2, num_samples)
    assert voices.isfinite().all()


def test_a_louder_mixture_gives_the_same_voices_louder():
    model = randomly(lambda: MossFormer2(**SMALL)).eval()
    samples = torch.randn(1, 800)
    assert_close(model(3 * samples).detach().numpy(), 3 * model(samples).detach().numpy())


def test_attention_is_that_of_pairs_of_frames_in_loops():
    width, query, group, length = 4, 6, 5, 12
    attention = randomly(lambda: mossformer2.GatedAttention(width, query, group, mossformer2.Rotary(4)))
    attention.qk_offset_scale.gamma.data.normal_()
    shared, hidden = torch.randn(1, length, query), torch.randn(1, length, 4 * width)
    angles = attention.rotary_pos_emb.angles(length)
    near_q, far_q, near_k, far_k = (
        attention.rotary_pos_emb.turn(x, angles)[0] for x in attention.qk_offset_scale(shared)
    )
    expected = torch.zeros(length, 4 * width)
    for t in range(length):
        for s in range(length):
            if t // group == s // group:
                expected[t] += (near_q[t] @ near_k[s] / group).clamp(min=0) ** 2 * hidden[0, s]
            expected[t] += (far_q[t] @ far_k[s]) / length * hidden[0, s]
    assert_close(attention._attend(shared, hidden)[0].detach().numpy(), expected.detach().numpy())


def test_turned_queries_and_keys_match_by_how_far_they_are_apart():
    rotary = mossformer2.Rotary(8)
    angles = rotary.angles(9)
    q, k = torch.randn(2, 10)
    turned_q, turned_k = (rotary.turn(x.expand(1, 9, 10), angles)[0] for x in (q, k))
    assert turned_q[2] @ turned_k[5] == pytest.approx(float(turned_q[4] @ turned_k[7]), rel=1e-4)
    assert turned_q[2] @ turned_k[5] != pytest.approx(float(turned_q[2] @ turned_k[7]), rel=1e-2)
    assert torch.equal(turned_q[:, 8:], q[8:].expand(9, 2)), "what stands behind the pairs is left alone"


def test_half_of_the_channels_are_read_from_the_frame_before():
    attention = randomly(lambda: mossformer2.GatedAttention(4, 4, 8, mossformer2.Rotary(4)))
    seen = []
    attention.to_qk.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    frames = torch.arange(12.0).reshape(1, 3, 4)
    attention(frames)
    assert seen[0][0].tolist() == [[0, 0, 2, 3], [0, 1, 6, 7], [4, 5, 10, 11]]


def test_a_memory_reads_19_frames_each_way_and_further_by_its_second_convolution():
    memory = randomly(lambda: mossformer2.Memory(4)).eval()
    for i in (1, 2):
        memory.conv[f"norm{i}"] = torch.nn.Identity()  # statistics of the whole sound reach everywhere
    still = torch.zeros(1, 201, 4)
    moved = still.clone()
    moved[0, 100] = 5
    reached = (memory(moved) != memory(still)).any(-1)[0].nonzero().flatten()
    assert (int(reached.min()), int(reached.max())) == (100 - 57, 100 + 57)
