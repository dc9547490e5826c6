import torch

from mer_ray.fusion.base import Config, Embedding, drop_modalities


def test_dropout_only_removes_and_never_a_clips_last_feature():
    torch.manual_seed(0)
    present = torch.rand(5000, 4) < 0.5
    kept = drop_modalities(present, 0.8)
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(dim=1), present.any(dim=1))
    alone = present.sum(dim=1) == 1
    assert alone.sum() > 500
    assert torch.equal(kept[alone], present[alone])


def test_dropout_drops_at_the_configured_rate():
    torch.manual_seed(0)
    for probability in (0.15, 0.3, 0.5):
        kept = drop_modalities(torch.ones(1000, 40, dtype=torch.bool), probability)
        assert abs((~kept).float().mean().item() - probability) < 0.01


def test_dropout_of_everything_leaves_one_feature_chosen_evenly():
    torch.manual_seed(0)
    present = torch.tensor([True, False, True, True]).expand(6000, 4)
    kept = drop_modalities(present, 1.0)
    assert (kept.sum(dim=1) == 1).all()
    shares = kept.float().mean(dim=0)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.0, 1.0, 1.0]) / 3, atol=0.03, rtol=0)


def test_dropout_of_nothing_changes_nothing_and_the_input_stays_as_it_is():
    present = torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) < 0.7
    before = present.clone()
    assert torch.equal(drop_modalities(present, 0.0), present)
    drop_modalities(present, 0.9)
    assert torch.equal(present, before)


def test_an_absent_feature_is_embedded_as_its_learnt_vector():
    torch.manual_seed(0)
    embed = Embedding(Config(dims=(2, 3), num_classes=2, hidden=4)).eval()
    features = [torch.full((3, 2), float("nan")), torch.ones(3, 3)]
    present = torch.tensor([[False, True]] * 3)
    h_BMD = embed(features, present)
    assert torch.equal(h_BMD[:, 0], embed.absent[0].expand(3, 4))
    assert torch.equal(h_BMD[:, 1], embed.project[1](features[1]))
