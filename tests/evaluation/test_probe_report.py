from __future__ import annotations

import re
from dataclasses import replace

from mer_ray.evaluation import probe_report
from mer_ray.evaluation.probe_report import Layer, ProbedModel, ProbeReport

LAYERS = tuple(Layer(i, 0.5 + 0.1 * (i == 18), 0.02, (0.47, 0.53 + 0.1 * (i == 18)), 0.51) for i in range(15, 25))
MODEL = ProbedModel("voice", "sha256 0123", 321, 5, True, LAYERS, 18, (17,), ("4 folds, not 5",))
DATA = ProbeReport("Layers", "today", 3, "abcd", {"python": "3"}, {"anger": 200, "<b>joy</b>": 121}, (MODEL,))


def test_the_page_says_which_layer_is_best_and_which_are_as_good() -> None:
    page = probe_report.render(DATA)
    assert "Layer 18 of voice tells the emotions best: weighted F1 60 ± 2." in page or "60.0 ± 2.0" in page
    rows = dict(re.findall(r"<tr><th[^>]*>(\d+) <span class=\"tag\">([\w ]+)</span>", page))
    assert rows == {"18": "best", "17": "as good"}
    assert "layers: [18]" in page
    assert "4 folds, not 5" in page


def test_every_layer_has_its_point_and_whisker() -> None:
    page = probe_report.render(DATA)
    assert len(re.findall(r"<circle", page)) == len(LAYERS)
    assert len(re.findall(r'class="whisker', page)) == len(LAYERS)
    assert len(re.findall(r'<circle class="dot', page)) == 1


def test_text_is_escaped_and_nothing_is_fetched() -> None:
    page = probe_report.render(replace(DATA, models=(replace(MODEL, name="<script>x</script>"),)))
    assert "<script>" not in page
    assert "<b>joy" not in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)


def test_a_page_without_warnings_has_no_box_for_them() -> None:
    assert 'class="warnings"' not in probe_report.render(replace(DATA, models=(replace(MODEL, warnings=()),)))
