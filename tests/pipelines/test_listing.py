from rich.console import Console

from mer_ray import registry
from mer_ray.encoders.hubert import ARCHITECTURES
from mer_ray.pipelines import listing


def test_every_encoder_is_listed_with_its_width_and_terms():
    listed = {one.name: one for one in listing.encoders()}
    assert list(listed) == registry.names("encoders")
    light = listed["ngrams"]
    assert (light.modality, light.reads, light.dim, light.models) == ("text", "transcript", "512", ())
    assert "n-grams" in light.note
    assert "no commercial use" in listed["opensmile"].licence
    assert all(one.licence for one in listed.values())
    hubert = {model.name: model for model in listed["hubert"].models}
    assert set(hubert) == set(ARCHITECTURES)
    assert (hubert["hubert-large"].dim, hubert["hubert-base"].dim) == ("1024", "768")
    assert hubert["chinese-hubert-large"].hub == "TencentGameMate/chinese-hubert-large"


def test_the_list_shows_names_whole():
    console = Console(record=True, width=80, force_terminal=False)
    listing.show(console)
    text = console.export_text()
    assert "317 M" in text
    for published in ARCHITECTURES.values():
        assert published.hub in text


def test_an_encoder_that_lacks_a_library_says_so(tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text("import a_library_that_is_not_there\n")
    package = __import__("mer_ray.encoders", fromlist=["x"])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    odd = next(one for one in listing.encoders() if one.name == "odd")
    assert "a_library_that_is_not_there" in odd.note
