"""CT-Transformer against FunASR's own: what funasr 1.4.16 gave with the same weights; the names of its parameters."""

import numpy as np
import torch
from golden_weights import fill

from mer_ray.pretrained.ct_transformer import CTTransformer

MARKS = ["<unk>", "_", "，", "。", "？", "、"]
SMALL = {"output_size": 16, "attention_heads": 4, "linear_units": 24, "num_blocks": 2, "kernel_size": 5}
FUNASR = {
    (0, 0): [-1.70597, 1.17538, 1.16863, 1.11084, -1.75961, 0.12317],
    (0, 5): [-2.03237, 1.37551, 1.12154, 0.42083, -0.17220, -0.45094],
    (1, 3): [-1.45659, 0.29544, 1.52288, -0.56580, -2.33538, -0.19057],
}
"""Logits of the funasr package for the words 0 to 5, and 6 to 9: by text and word."""


def test_it_gives_what_funasr_gives():
    model = fill(CTTransformer(12, 16, MARKS, **SMALL))
    made = model(torch.arange(12).reshape(2, 6), torch.arange(6) < torch.tensor([[6], [4]])).detach()
    for (text, word), expected in FUNASR.items():
        np.testing.assert_allclose(made[text, word], expected, atol=2e-5)


def test_its_parameters_are_named_and_shaped_as_in_the_published_checkpoint():
    sizes = {"output_size": 256, "attention_heads": 8, "linear_units": 1024, "num_blocks": 4}
    with torch.device("meta"):
        model = CTTransformer(272727, 256, MARKS, **sizes)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {
        "embed.weight": (272727, 256),
        "encoder.encoders0.0.self_attn.linear_q_k_v.weight": (768, 256),
        "encoder.encoders.2.self_attn.fsmn_block.weight": (256, 1, 11),
        "encoder.encoders.2.feed_forward.w_1.weight": (1024, 256),
        "encoder.after_norm.weight": (256,),
        "decoder.weight": (6, 256),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert len(shapes) == 57
