from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mer_ray.errors import ConfigError, PluginError
from mer_ray.pretrained.forward import Features, Item, Runner
from mer_ray.pretrained.layers import LayerReader, Readout, combine


class Stack(nn.Module):
    """Layer i adds 10^i; the final norm doubles."""

    def __init__(self, num_layers=4):
        super().__init__()
        self.layers = nn.ModuleList(Add(10.0**i) for i in range(num_layers))
        self.ran = []

    def forward(self, x):
        for i, layer in enumerate(self.layers, 1):
            self.ran.append(i)
            x = layer(hidden_states=x) if i % 2 else layer(x)[0]
        return SimpleNamespace(last_hidden_state=x * 2)


class Add(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, hidden_states):
        return (hidden_states + self.what,) if self.what in {10.0, 1000.0} else hidden_states + self.what


STATES = {0: 0.0, 1: 1.0, 2: 11.0, 3: 111.0, 4: 1111.0}


def read(wanted, normed):
    stack = Stack()
    reader = LayerReader(stack, "layers", wanted, normed)
    return [float(state[0, 0, 0]) for state in reader.states(stack, x=torch.zeros(1, 2, 3))], stack.ran


@pytest.mark.parametrize("wanted", [(4,), (0,), (0, 2), (3, 1), (1, 2, 3, 4)])
def test_the_wanted_states_are_read_and_deeper_layers_are_not_run(wanted):
    states, ran = read(wanted, normed=False)
    assert states == [STATES[i] for i in wanted]
    assert ran == list(range(1, max(1, *wanted, 1) + 1))


def test_the_last_state_can_be_taken_behind_the_final_norm():
    assert read((3, 4), normed=True)[0] == [111.0, 2222.0]
    assert read((2, 3), normed=True)[0] == [11.0, 111.0], "a trimmed stack's norm is not its model's"


def test_a_forward_that_runs_out_of_memory_leaves_nothing_behind():
    stack = Stack()
    reader = LayerReader(stack, "layers", (1, 2, 4), normed=False)
    held = []

    def remember(inputs):
        held.append(dict(reader._states))
        return Features(reader.states(stack, **inputs)[-1])

    def fall_over(module, arguments, output):
        if len(held) == 1:
            assert reader._states, "the failed batch's states were caught"
            raise torch.OutOfMemoryError("CUDA out of memory")

    stack.layers[2].register_forward_hook(fall_over)
    items = [Item(0, 1, None), Item(1, 1, None)]
    (one, two) = Runner("cpu", torch.float32, budget=2).map(
        items, lambda payloads: {"x": torch.zeros(1, 1, 1)}, remember
    )
    assert (float(one), float(two)) == (STATES[4], STATES[4])
    assert held == [{}, {}, {}], "the batch of two, then each half"
    assert reader._states == {}


@pytest.mark.parametrize(
    ("how", "expected"), [("mean", [2.0]), ("sum", [4.0]), ("weighted", [2.5]), ("concat", [1.0, 3.0])]
)
def test_states_are_combined(how, expected):
    states = [torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([3.0], dtype=torch.bfloat16)]
    made = combine(states, how, torch.tensor([-0.5, 1.0]))
    assert made.tolist() == expected
    assert made.dtype == torch.float32


def test_the_last_n_or_a_list_of_layers():
    assert Readout(layers=2).indices(12) == (11, 12)
    assert Readout(layers=13).indices(12) == tuple(range(13))
    assert Readout(layers=(18,)).indices(24) == (18,)
    assert Readout(layers=[1, 2, 3], combine="concat").width(4, 5) == 15
    assert Readout(layers=[1, 2, 3]).width(4, 5) == 5


@pytest.mark.parametrize("layers", [0, 14, (13,), (-1,), ()])
def test_a_layer_that_does_not_exist_is_refused(layers):
    with pytest.raises(ConfigError, match="hidden states 0 to 12"):
        Readout(layers=layers).indices(12)


def test_learnt_weights_are_read_and_held_to_the_layers(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"layer_weights": torch.tensor([0.25, 0.75])}, file)
    readout = Readout(layers=2, combine="weighted", layer_weights=str(file))
    assert readout.learnt(4).tolist() == [0.25, 0.75]
    assert Readout(layers=2).learnt(4) is None
    with pytest.raises(PluginError, match="weighs 2 layers, but 3"):
        Readout(layers=3, combine="weighted", layer_weights=str(file)).learnt(4)
    with pytest.raises(PluginError, match="layer_weights=FILE"):
        Readout(layers=3, combine="weighted").learnt(4)
    save_file({"something": torch.zeros(1)}, file)
    with pytest.raises(PluginError, match="holds no tensor"):
        readout.learnt(4)
