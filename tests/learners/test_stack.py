import torch

from mer_ray import registry
from mer_ray.learners.stack import Stack

OPTIONS = {"dims": (5, 3), "num_classes": 3, "hidden": 8, "dropout": 0.5}


def models(count=3):
    torch.manual_seed(0)
    return [registry.build("fusion", "attention", OPTIONS) for _ in range(count)]


def inputs(count=3, same=False):
    torch.manual_seed(1)
    features = [torch.randn(1 if same else count, 6, dim).expand(count, 6, dim) for dim in OPTIONS["dims"]]
    return features, torch.ones(count, 6, 2, dtype=torch.bool)


def test_each_model_runs_on_its_own_clips_and_draws_its_own_dropout():
    made = models()
    features, present = inputs()
    outputs = Stack(made, torch.device("cpu"))(features, present, training=False)
    for g, model in enumerate(made):
        torch.testing.assert_close(outputs[g], model.eval()([x[g] for x in features], present[g])[0])
    alike = Stack([made[0]] * 3, torch.device("cpu"))
    features, present = inputs(same=True)
    assert torch.allclose(*alike(features, present, training=False)[:2])
    assert not torch.allclose(*alike(features, present, training=True)[:2])


def test_the_models_that_stay_go_on_as_they_would_have():
    features, present = inputs()

    def fitted(leave):
        stack = Stack(models(), torch.device("cpu"))
        optimizer = torch.optim.AdamW(stack.parameters.values(), lr=0.01, fused=True)
        for step in range(4):
            left = [0, 1, 2]
            if leave and step >= 2:
                left = [0, 2]
                if step == 2:
                    stack.keep(torch.tensor(left), optimizer)
            optimizer.zero_grad()
            stack([x[left] for x in features], present[left], training=False).square().sum().backward()
            optimizer.step()
        return stack.state

    whole, less = fitted(leave=False), fitted(leave=True)
    for name, tensor in less.items():
        torch.testing.assert_close(tensor, whole[name][[0, 2]], rtol=1e-5, atol=1e-6)
