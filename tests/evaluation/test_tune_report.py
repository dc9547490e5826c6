import re
from dataclasses import replace
from xml.etree import ElementTree as ET

from mer_ray.evaluation import tune_report
from mer_ray.evaluation.tune_report import Searchable, TriedTrial, TuneReport

KEYS = (
    Searchable("mining.strategy", ("vote", "topk")),
    Searchable("fit.learning_rate", low=1e-4, high=1e-2, log=True),
    Searchable("mining.options.k", low=5, high=45),
)
TRIALS = (
    TriedTrial(0, {"mining.strategy": "vote", "fit.learning_rate": 1e-3}, (0.5, 0.55), "done", 0.55, 2.0),
    TriedTrial(
        1,
        {"mining.strategy": "topk", "fit.learning_rate": 1e-2, "mining.options.k": 15},
        (0.6, 0.7),
        "done",
        0.7,
        3.0,
        gain=0.15,
        noise=0.04,
    ),
    TriedTrial(2, {"mining.strategy": "vote", "fit.learning_rate": 1e-4}, (0.75,), "stopped", 0.75, 1.0),
    TriedTrial(3, {"mining.strategy": "vote", "fit.learning_rate": 5e-3}, (), "failed", None, 0.5, "<b>broke</b>"),
)
DATA = TuneReport(
    title="Search", when="today", seed=3, config_digest="abcd", versions={"python": "3"}, keys=KEYS, trials=TRIALS,
    best=1, config="runs/tune/best.yaml", num_labelled=120, concurrent=1,
)  # fmt: skip
PAGE = tune_report.render(DATA)


def drawn():
    """The traces of the chart of parallel coordinates by title: where each trial crosses the axes."""
    chart = re.search(r'<svg[^>]*aria-label="Every trial.*?</svg>', PAGE, re.DOTALL)
    root = ET.fromstring(chart.group())
    space = "{http://www.w3.org/2000/svg}"
    return {
        group.find(f"{space}title").text: (
            group.get("class"),
            [float(dot.get("cx")) for dot in group.iter(f"{space}circle")],
            len(list(group.iter(f"{space}line"))),
        )
        for group in root.iter(f"{space}g")
    }


def test_every_trial_crosses_the_axes_where_its_values_lie():
    traces = drawn()
    assert len(traces) == 3, "the failed one has nothing to show"
    style, places, num_lines = traces["trial 1, done: 70.0"]
    left, right = 38.0, places[0]
    assert "strong" in style
    assert right - left > 300, "the second choice lies at the right end"
    shares = [(x - left) / (right - left) for x in places]
    assert [round(share, 2) for share in shares[:3]] == [1.0, 1.0, 0.25]
    assert num_lines == 3
    _, places, num_lines = traces["trial 0, done: 55.0"]
    assert round((places[1] - left) / (right - left), 2) == 0.5, "the rate is drawn by its logarithm"
    assert (len(places), num_lines) == (3, 1), "a line goes through an axis that the trial lacks"
    assert "strong" not in traces["trial 2, stopped: 75.0"][0]


def test_the_page_names_the_best_trial_and_ranks_the_others():
    taken = "Of 4 trials, number 1 is taken: weighted F1 70.0 out of fold, +15.0 ± 4.0 points from the config as given"
    assert f"{taken}, +10.0 points from its own labelled clips alone" in PAGE
    assert "<td>+15.0 ± 4.0</td>" in PAGE
    assert "runs/tune/best.yaml" in PAGE
    rows = re.findall(r'<th scope="row">(\d)', PAGE)
    assert rows == ["1", "0", "2", "3"], "a trial that was stopped is no candidate"
    assert "one at a time" in PAGE
    assert "depends on the order" in tune_report.render(replace(DATA, concurrent=4))


def test_where_no_trial_gains_enough_the_page_says_that_the_config_is_taken():
    page = tune_report.render(replace(DATA, best=0))
    assert "None of 4 trials gains more than its noise on the config as given, which is taken" in page


def test_a_value_of_the_config_that_is_not_searched_breaks_its_line():
    odd = replace(TRIALS[0], values={"mining.strategy": "other", "fit.learning_rate": 1.0, "mining.options.k": None})
    page = tune_report.render(replace(DATA, trials=(odd, *TRIALS[1:])))
    assert "trial 0, done: 55.0" in page


def test_text_is_escaped_and_nothing_is_fetched():
    assert "<b>broke" not in PAGE
    assert not re.search(r'(src|href)="(?!#|data:)', PAGE)
