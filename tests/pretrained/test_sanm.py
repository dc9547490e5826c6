"""The encoder of FunASR's models by its parts, each against the plainest way to compute it."""

import math

import pytest
import torch
from closeness import assert_close
from golden_weights import fill, wave

from mer_ray.pretrained import sanm
from mer_ray.pretrained.sanm import Encoder, Sizes

SMALL = Sizes(output_size=8, attention_heads=2, linear_units=12, num_blocks=2, tp_blocks=1, kernel_size=5)


def test_positions_are_sines_then_cosines_of_places_from_1():
    made = sanm.positions(torch.zeros(1, 3, 6))
    for t in range(3):
        for i in range(3):
            angle = (t + 1) / 10_000 ** (i / 2)
            assert float(made[t, i]) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(made[t, i + 3]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_attention_is_that_of_pairs_of_frames_in_loops():
    q, k, v = (wave(1, 4, 6, phase=float(i)) for i in range(3))
    made = sanm.attend(q, k, v, 2, torch.tensor([[True, True, True, False]]))
    for t in range(4):
        for head in (slice(0, 3), slice(3, 6)):
            share = torch.stack([q[0, t, head] @ k[0, s, head] / 3**0.5 for s in range(3)]).softmax(0)
            assert_close(made[0, t, head].numpy(), (share[:, None] * v[0, :3, head]).sum(0).numpy())


@pytest.mark.parametrize(("shift", "span"), [(0, (2, 2)), (1, (3, 1))])
def test_a_memory_reads_as_far_as_told_and_nothing_that_is_padded(shift, span):
    assert sanm.reach(5, shift) == span
    block = torch.nn.Conv1d(1, 1, 5, bias=False)
    block.weight.data.fill_(1.0)
    values = torch.zeros(1, 12, 1)
    values[0, 5] = 1.0
    reached = sanm.remember(values, block, span, None)[0, :, 0].nonzero().flatten()
    assert (int(reached.min()), int(reached.max())) == (5 - span[1], 5 + span[0])
    own = torch.arange(12)[None] < 5
    assert not sanm.remember(values, block, span, own).any()


@pytest.mark.parametrize("input_size", [8, 10])
def test_what_is_padded_is_not_read_and_changes_nothing(input_size):
    encoder = fill(Encoder(input_size, SMALL))
    frames = wave(2, 7, input_size)
    own = torch.arange(7) < torch.tensor([[7], [4]])
    made = encoder(frames, own)
    frames[1, 4:] = 1e3
    again = encoder(frames, own)
    alone = encoder(frames[1:, :4])
    assert torch.equal(made[1, :4], again[1, :4])
    assert_close(made[1, :4].detach().numpy(), alone[0].detach().numpy(), spread=1e-5)


def test_a_width_that_the_heads_do_not_part_is_refused():
    with pytest.raises(ValueError, match="output_size=9"):
        Encoder(8, Sizes(output_size=9, attention_heads=2))


def test_a_batch_tells_what_is_padded():
    padded, own = sanm.pad([torch.ones(3, 2), torch.ones(1, 2)])
    assert padded.shape == (2, 3, 2)
    assert own is not None
    assert torch.equal(own, padded[:, :, 0] == 1)
    assert sanm.pad([torch.ones(3, 2)] * 2)[1] is None
