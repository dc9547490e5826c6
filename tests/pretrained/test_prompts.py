import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from mer_ray.errors import PluginError, ShapeError
from mer_ray.pretrained import architecture
from mer_ray.pretrained.prompts import FORMAT, PromptedEncoder, Prompts, add_prompts, fingerprint, fresh, widen_mask

LAYERS, N, VISION, TEXT = 4, 3, 32, 16
SIZES = {"num_hidden_layers": LAYERS, "num_attention_heads": 2, "initializer_factor": 4.0}
START, END = 60, 63
IDS = torch.tensor([[START, 5, 6, 7, 8, END], [START, 9, 10, END, END, END]])
PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def model_of(attention="sdpa", seed=0):
    config = CLIPConfig(
        text_config={"vocab_size": 64, "hidden_size": TEXT, "intermediate_size": 32, "eos_token_id": END, **SIZES},
        vision_config={"hidden_size": VISION, "intermediate_size": 64, "image_size": 32, "patch_size": 8, **SIZES},
        projection_dim=24,
    )
    config._attn_implementation = attention
    return architecture.randomly(lambda: CLIPModel(config), seed=seed).eval().requires_grad_(False)


def prompts_of(model, depth=2):
    vision, text = (fresh(depth, N, width, seed=width, std=0.5) for width in (VISION, TEXT))
    return Prompts(vision, text, fingerprint(model.vision_model), ("happy", "sad"), 12.5)


def placing(tokens):
    """A hook that writes tokens over positions 1 to N of what enters a layer."""

    def place(module, arguments, named):
        (h, *others) = arguments
        h = h.clone()
        h[:, 1 : 1 + N] = tokens
        return (h, *others), named

    return place


@pytest.mark.parametrize("depth", [1, 2, LAYERS])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", [None, PADDED])
def test_a_text_is_read_as_with_placeholders_for_the_prompts(attention, mask, depth):
    """Prompt learning as usually written: dummy words behind the start, overwritten before each of the first layers."""
    model = model_of(attention)
    prompts = prompts_of(model, depth)
    for layer, tokens in zip(model.text_model.encoder.layers, prompts.text, strict=False):
        layer.register_forward_pre_hook(placing(tokens), with_kwargs=True)
    ids = torch.cat([IDS[:, :1], torch.zeros(2, N, dtype=torch.long), IDS[:, 1:]], dim=1)
    positions = torch.tensor([[0] * (1 + N) + list(range(1, IDS.shape[1]))])
    wide = None if mask is None else torch.cat([mask[:, :1].expand(-1, 1 + N), mask[:, 1:]], dim=1)
    expected = model.text_model(ids, attention_mask=wide, position_ids=positions)

    prompted = model_of(attention)
    add_prompts(prompted, prompts, "made")
    made = prompted.text_model(IDS, attention_mask=mask)
    torch.testing.assert_close(made.pooler_output, expected.pooler_output, rtol=1e-4, atol=1e-5)
    states = expected.last_hidden_state
    kept = torch.cat([states[:, :1], states[:, 1 + N :]], dim=1)
    read = PADDED.bool() if mask is not None else torch.ones_like(IDS, dtype=torch.bool)
    torch.testing.assert_close(made.last_hidden_state[read], kept[read], rtol=1e-4, atol=1e-5)


def test_the_start_of_a_text_sees_no_prompt_and_no_word_one_ahead():
    model = model_of()
    plain = model.text_model(IDS).last_hidden_state
    add_prompts(model, prompts_of(model), "made")
    made = model.text_model(IDS).last_hidden_state
    torch.testing.assert_close(made[:, 0], plain[:, 0], rtol=1e-4, atol=1e-5)
    assert (made[:, 1:] - plain[:, 1:]).abs().amax(dim=-1).min() > 1e-3
    changed = IDS.clone()
    changed[0, 3] = 20
    torch.testing.assert_close(model.text_model(changed).last_hidden_state[0, :3], made[0, :3])


def test_an_image_is_read_with_prompts_in_each_of_the_first_layers():
    model = model_of()
    prompts = prompts_of(model, depth=2)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tower = model.vision_model
    h = tower.pre_layrnorm(tower.embeddings(pixels))
    length = h.shape[1]
    first, second = (token.expand(2, -1, -1) for token in prompts.vision)
    h = tower.encoder.layers[0](torch.cat([h, first], dim=1), None)  # among patches their place makes no difference
    h = tower.encoder.layers[1](torch.cat([h[:, :length], second], dim=1), None)
    h = tower.encoder.layers[2](h, None)
    h = tower.encoder.layers[3](h, None)
    add_prompts(model, prompts, "made")
    made = model.vision_model(pixels)
    torch.testing.assert_close(made.last_hidden_state, h[:, :length], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.pooler_output, tower.post_layernorm(h[:, 0]), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_prompt_and_nothing_else():
    model = model_of()
    add_prompts(model, prompts_of(model, depth=LAYERS), "made")
    pixels = torch.randn(2, 3, 32, 32)
    made = model(input_ids=IDS, pixel_values=pixels)
    torch.nn.functional.cross_entropy(made.logits_per_image, torch.tensor([0, 1])).backward()
    learnt = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(learnt) == {f"{tower}_model.encoder.tokens.{i}" for tower in ("vision", "text") for i in range(LAYERS)}
    for weight in learnt.values():
        assert weight.grad.abs().amax(dim=-1).min() > 0
    assert all(weight.grad is None for name, weight in model.named_parameters() if name not in learnt)


def test_a_causal_mask_is_widened():
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 0]], dtype=torch.bool).expand(1, 1, 3, 3)  # the last is padding
    expected = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]], dtype=torch.bool
    )
    assert torch.equal(widen_mask(mask, 2)[0, 0], expected)
    least = torch.finfo(torch.float32).min
    assert torch.equal(widen_mask(torch.where(mask, 0.0, least), 2)[0, 0], torch.where(expected, 0.0, least))


def test_a_mask_of_another_kind_is_refused():
    with pytest.raises(ShapeError, match="sdpa or eager"):
        widen_mask(torch.ones(2, 6), 2)


def test_the_file_keeps_everything(tmp_path):
    prompts = prompts_of(model_of())
    prompts.save(tmp_path / "p.safetensors")
    found = Prompts.load(tmp_path / "p.safetensors")
    assert (found.model, found.classes, found.logit_scale) == (prompts.model, ("happy", "sad"), 12.5)
    for ours, theirs in ((found.vision, prompts.vision), (found.text, prompts.text)):
        assert len(ours) == 2
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_twelve_layers_stay_in_their_order(tmp_path):
    tokens = fresh(12, N, VISION)
    Prompts(tokens, [], "m", (), 1.0).save(tmp_path / "p.safetensors")
    found = Prompts.load(tmp_path / "p.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(found.vision, tokens, strict=True))
    assert found.text == []


GOOD = {"format": FORMAT, "model": "m", "classes": "[]", "logit_scale": "1.0"}


@pytest.mark.parametrize(
    ("names", "metadata", "why"),
    [
        (["vision.1", "vision.3"], GOOD, "without a gap"),
        (["vision.0", "vision.1"], GOOD, "without a gap"),
        (["vision.first"], GOOD, "invalid literal"),
        (["vision.1"], {}, "its format is None"),
        (["vision.1"], {**GOOD, "format": "mer_ray prompts 9"}, "prompts 9"),
        (["vision.1"], {name: text for name, text in GOOD.items() if name != "model"}, "'model'"),
        (["vision.1"], {**GOOD, "logit_scale": "much"}, "could not convert"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, names, metadata, why):
    save_file({name: torch.zeros(N, VISION) for name in names}, tmp_path / "p.safetensors", metadata=metadata)
    with pytest.raises(PluginError, match=why):
        Prompts.load(tmp_path / "p.safetensors")


def test_no_file_is_told(tmp_path):
    with pytest.raises(PluginError, match=r"prompts .*none\.safetensors: there is no such file"):
        Prompts.load(tmp_path / "none.safetensors")


def test_prompts_of_another_model_are_refused():
    with pytest.raises(PluginError, match="trained in the CLIP model"):
        add_prompts(model_of(seed=1), prompts_of(model_of(seed=0)), "made")


@pytest.mark.parametrize(
    "tokens", [fresh(2, N, VISION + 8), fresh(LAYERS + 1, N, VISION), [], [*fresh(1, N, VISION), *fresh(1, 5, VISION)]]
)
def test_prompts_that_do_not_fit_the_tower_are_refused(tokens):
    model = model_of()
    with pytest.raises(ShapeError, match="the tower has 4 of width 32"):
        PromptedEncoder(model.vision_model.encoder, tokens)
    with pytest.raises(PluginError, match="prompts made: prompts of shape"):
        add_prompts(model, Prompts(tokens, [], fingerprint(model.vision_model), (), 1.0), "made")


def test_the_fingerprint_does_not_depend_on_the_precision_of_the_file():
    model = model_of()
    before = fingerprint(model.vision_model)
    assert fingerprint(model.half().vision_model) == before
    assert fingerprint(model_of(seed=1).vision_model) != before
