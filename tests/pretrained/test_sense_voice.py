"""SenseVoice against FunASR's own: what funasr 1.4.16 gave with the same weights, and the names of its parameters."""

import numpy as np
import torch
from golden_weights import fill, wave

from mer_ray.pretrained.sense_voice import LANGUAGES, SenseVoice

SMALL = {"output_size": 16, "attention_heads": 4, "linear_units": 24, "num_blocks": 3, "tp_blocks": 2}
SMALL |= {"kernel_size": 5, "sanm_shfit": 1}
FUNASR = {
    (0, 0): [-2.46208, -2.56137, -1.07936, -4.10327, -1.58595, -2.12957, -3.07078, -3.32568, -2.58711],
    (0, 9): [-2.13244, -2.44887, -1.53655, -4.08588, -2.18903, -1.54888, -3.21174, -2.90732, -1.93996],
    (1, 3): [-2.43710, -2.98349, -1.29403, -3.72457, -3.06508, -1.32032, -3.27876, -2.79098, -1.89082],
    (1, 7): [-1.80958, -3.83880, -2.28535, -4.09219, -2.94709, -1.03327, -2.06767, -3.26569, -2.09288],
}
"""Log-probabilities of the funasr package, Cantonese with marks, sounds of 6 and of 4 frames: by sound and frame."""


def test_it_gives_what_funasr_gives():
    model = fill(SenseVoice(14, 9, **SMALL))
    own = torch.arange(6) < torch.tensor([[6], [4]])
    made = model(wave(2, 6, 14), torch.full((2,), LANGUAGES["yue"]), own).detach()
    assert made.shape == (2, 10, 9)
    for (sound, frame), expected in FUNASR.items():
        np.testing.assert_allclose(made[sound, frame], expected, atol=2e-5)


def test_its_parameters_are_named_and_shaped_as_in_the_published_checkpoint():
    with torch.device("meta"):
        model = SenseVoice(560, 25055, num_blocks=50, tp_blocks=20)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {
        "embed.weight": (16, 560),
        "ctc.ctc_lo.weight": (25055, 512),
        "encoder.encoders0.0.norm1.weight": (560,),
        "encoder.encoders0.0.self_attn.linear_q_k_v.weight": (1536, 560),
        "encoder.encoders.48.self_attn.fsmn_block.weight": (512, 1, 11),
        "encoder.encoders.48.feed_forward.w_1.weight": (2048, 512),
        "encoder.tp_encoders.19.self_attn.linear_out.bias": (512,),
        "encoder.after_norm.bias": (512,),
        "encoder.tp_norm.weight": (512,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert len(shapes) == 917
