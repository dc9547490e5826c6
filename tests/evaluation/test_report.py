"""The report from realistic data: complete, harmless, self-contained."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from mer_ray.evaluation import metrics
from mer_ray.evaluation.candidates import Candidate, ChoiceReport
from mer_ray.evaluation.metrics import Judged
from mer_ray.evaluation.page import class_colours
from mer_ray.evaluation.report import (
    ClipReport,
    Counts,
    DenoiseReport,
    NoiseReport,
    QuarantineLine,
    ReportData,
    RoundReport,
    StepTime,
    Vote,
    render,
)

CLASSES = ("neutral", "anger", "happiness", "sadness", "worry", "surprise")
LEARNERS = ("audio-video-text", "audio-text", "video-text", "audio-video")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps what tests ask for."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def face(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    image = np.full((112, 112, 3), (190, 205, 225), np.uint8)
    skin = tuple(int(v) for v in rng.integers([110, 140, 180], [180, 200, 250]))
    cv2.ellipse(image, (56, 60), (34, 44), 0, 0, 360, skin, -1)
    for x in (44, 68):
        cv2.circle(image, (x, 50), 4, (40, 40, 40), -1)
    cv2.ellipse(image, (56, 80), (14, int(rng.integers(3, 10))), 0, 0, 180, (60, 60, 150), 2)
    return bytes(cv2.imencode(".jpg", image)[1])


def scores(seed: int = 0, num_clips: int = 118, right: float = 0.78) -> metrics.Scores:
    rng = np.random.default_rng(seed)
    truth = rng.choice(6, num_clips, p=[0.28, 0.2, 0.2, 0.15, 0.11, 0.06])
    predicted = np.where(rng.random(num_clips) < right, truth, rng.integers(0, 6, num_clips))
    result = metrics.score(truth.astype(np.int64), predicted.astype(np.int64), CLASSES)
    assert result is not None
    return result


def clips() -> tuple[ClipReport, ...]:
    rng = np.random.default_rng(3)
    words = ("I never said you could take that.", "Well, that is wonderful news!", "I do not know what to do about it.")
    made = []
    for i, group in enumerate(["adopted"] * 4 + ["contested"] * 3 + ["label in doubt"] * 2):
        label = CLASSES[i % 6]
        weights = rng.dirichlet([4, 4, 2])
        made.append(
            ClipReport(
                clip_id=f"demo_{i * 37:04d}",
                group=group,
                label=label,
                confidence=0.95 - 0.07 * i,
                true_label=(label if i % 3 else CLASSES[(i + 1) % 6]) if group != "label in doubt" else None,
                given_label=CLASSES[(i + 2) % 6] if group == "label in doubt" else None,
                votes=tuple(
                    Vote(name, label if k or group == "adopted" else CLASSES[(i + 3) % 6], 0.9 - 0.1 * k)
                    for k, name in enumerate(LEARNERS)
                ),
                weights=dict(zip(("audio", "video", "text"), weights.tolist(), strict=True)),
                without={"audio": 0.31, "video": 0.12, "text": -0.04},
                nearest=(("demo_0003", label),),
                transcript=words[i % 3],
                faces=tuple(face(10 * i + k) for k in range(4)) if i != 4 else (),
                round_adopted=0 if group == "adopted" else None,
            )
        )
    return tuple(made)


def sample() -> ReportData:
    """What a run of the demo would report."""
    selected = ([52, 30, 34, 18, 9, 4], [21, 14, 9, 12, 6, 3], [6, 4, 5, 3, 2, 0], [0] * 6)
    oof, test = (0.684, 0.741, 0.757, 0.731), (0.672, 0.739, 0.768, 0.752)
    rounds = tuple(
        RoundReport(
            round=i,
            selected=dict(zip(CLASSES, selected[i], strict=True)),
            pool=dict(zip(CLASSES, (141 - 9 * i, 96 + 9 * i, 92, 71, 48, 23), strict=True)),
            precision=(0.93, 0.88, 0.80, None)[i],
            oof_waf=oof[i],
            test_waf=test[i],
            kept=i < 3,
            reason=("", "", "", "The out-of-fold WAF fell by 2.6 points: the guard drops this round and stops.")[i],
            learners={name: oof[i] - 0.015 * k for k, name in enumerate(LEARNERS)},
            precision_by_class=dict(zip(CLASSES, (0.96, 0.93, 0.97, 0.89, 0.78, None), strict=True)) if i < 2 else {},
        )
        for i in range(4)
    )
    return ReportData(
        title="Multimodal emotion recognition: the demo",
        seed=0,
        config_digest="0f3a9c2d77e1b645",
        when="21 November 2026, 14:05 UTC",
        versions={"mer_ray": "0.1.0", "Python": "3.11.2", "torch": "2.14.1", "ray": "2.60.0"},
        counts=Counts(
            manifest=600, predicted=591, quarantined=9, labelled=120, unlabelled=360, test=120,
            adoptable=352, adopted=158,
        ),
        classes=CLASSES,
        scored_on="test",
        scores=scores(),
        rounds=rounds,
        pool=dict(zip(CLASSES, (141, 96, 92, 71, 48, 23), strict=True)),
        labelled=dict(zip(CLASSES, (36, 24, 24, 18, 12, 6), strict=True)),
        modalities={"audio": 0.487, "video": 0.553, "text": 0.401},
        control=0.661,
        groups={"speaker_07": (39, 0.72), "speaker_08": (40, 0.79), "speaker_09": (39, 0.84)},
        denoise=DenoiseReport(
            3.1, 9.4, 41.0, 41.0, {"original": 402, "stream 0": 110, "stream 1": 41},
            tuple(np.random.default_rng(1).normal(6.0, 2.5, 150).tolist()),
        ),
        noise=(
            NoiseReport("street_0db", "environment", 0.0, 118, 0.768, 0.412, 0.551, 0.041, 0.033),
            NoiseReport("environment_10db", "environment", 10.0, 118, 0.768, 0.633, 0.702, 0.03, 0.02),
            NoiseReport("babble_10db", "babble", 10.0, 118, 0.768, 0.589),
        ),
        quarantine=(
            QuarantineLine("audio", "no_streams", 7, ("demo_0012", "demo_0077")),
            QuarantineLine("faces", "unreadable", 11, ("demo_0044",)),
        ),
        clips=clips(),
        timings=(
            StepTime("audio", 21.4, 591), StepTime("denoised", 33.0, 553), StepTime("faces", 41.2, 580),
            StepTime("egemaps", 18.8, 575), StepTime("logmel", 6.1, 575), StepTime("hashed text", 0.0, 0),
            StepTime("rounds", 84.0, 0),
        ),
        warnings=("1 speaker is heard both in training and in test (speaker_03): split by speaker.",),
    )  # fmt: skip


def choice(taken: str = "student", **told) -> ChoiceReport:
    """What a run by ``mining.strategy=auto`` would report."""
    figures = {
        "round_0": ("the plain learners", True, 0.684, 0.91, 0.08, 0.0, 0.0),
        "linear": ("logistic regression", False, 0.701, 0.88, 0.05, 0.017, 0.02),
        "lda_em": ("discriminant analysis", True, 0.72, 0.85, 0.04, 0.036, 0.03),
        "student": ("a network", True, 0.731, 0.8, 0.03, 0.047, 0.021),
        "mean": ("the mean of both", True, 0.67, 0.95, 0.06, -0.014, 0.025),
    }
    made = tuple(
        Candidate(name, what, may_label, Judged(*of, chosen=name == taken))
        for name, (what, may_label, *of) in figures.items()
    )
    return ChoiceReport(made, **{"by_fold": ("student", "mean", "student"), "oof_waf": 0.712, **told})


@pytest.fixture(scope="module")
def by_choice() -> Page:
    rounds = sample().rounds[:2]
    bins = ((0.4, 0.5, 8), (0.7, 0.6, 8), (0.95, 0.9, 8))
    calibrated = {"reliability": bins, "ece": 0.083, "test_ece": (0.05, 0.12)}
    return Page(render(dataclasses.replace(sample(), choice=choice(), rounds=rounds, **calibrated)))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(sample()))


def test_says_what_came_out(page: Page) -> None:
    data = sample()
    assert data.scores is not None
    assert f"raised the weighted F1 from 67.2 to {100 * data.scores.waf:.1f} on 118 test clips" in page.text
    assert "591 of 600 clips now have a label" in page.text
    assert "Learning from 158 of the 352 unlabelled clips, those that the learners agreed on, raised" in page.text
    assert "158of 352 unlabelled clips" in page.text, "the tile says the same"


def test_holds_every_part_of_the_data(page: Page) -> None:
    data = sample()
    for expected in (
        *CLASSES, *LEARNERS, "speaker_07", "no streams", "demo_0077", "stream 1", "the guard drops this round",
        "0f3a9c2d77e1b645", "ray 2.60.0", "speaker_03", "I never said you could take that.", "after 0", "+6.3",
        "55.3", "66.1", "3 min 24 s",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert len([a for a in page.all("article") if "clip" in str(a["class"])]) == len(data.clips)
    assert len(page.all("img")) == 4 * 8
    assert data.scores is not None
    for row in data.scores.confusion:
        for count in row:
            assert str(count) in page.text


def test_a_line_for_each_kind_of_noise_ends_where_there_is_none(page: Page) -> None:
    (chart,) = [str(svg["aria-label"]) for svg in page.all("svg") if "voice to noise" in str(svg["aria-label"])]
    assert "environment, as it is: 41.2, 63.3, 76.8; environment, denoised: 55.1, 70.2, 76.8" in chart
    assert "babble, as it is: none, 58.9, 76.8" in chart
    assert "babble, denoised" not in chart
    for expected in ("street_0db", "41.2 ± 4.1", "55.1 ± 3.3", "no noise"):
        assert expected in page.text


def test_needs_no_network_and_no_other_script() -> None:
    html = render(sample())
    assert not re.search(r"""(src|href|url|@import)\s*[=(]\s*["']?\s*(https?:|//)""", html)
    page = Page(html)
    assert not page.all("link")
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_text_comes_out_harmless() -> None:
    attack = """</blockquote></script><script>alert(1)</script><img src=x onerror="alert(1)">' " \x00 \ud800"""
    clip = ClipReport(
        attack, attack, attack, 0.5, attack, None, (Vote(attack, attack, 0.5),), {attack: 1.0}, {attack: 0.1},
        ((attack, attack),), attack,
    )  # fmt: skip
    data = dataclasses.replace(
        sample(),
        title=attack,
        config_digest=attack,
        when=attack,
        versions={attack: attack},
        classes=(attack, *CLASSES[1:]),
        pool={attack: 3},
        modalities={attack: 0.5},
        groups={attack: (3, 0.5)},
        quarantine=(QuarantineLine(attack, attack, 1, (attack,)),),
        timings=(StepTime(attack, 1.0, 3),),
        warnings=(attack,),
        clips=(clip,),
        rounds=(dataclasses.replace(sample().rounds[0], selected={attack: 2}, learners={attack: 0.5}, reason=attack),),
    )
    html = render(data)
    page = Page(html)
    assert len(page.all("script")) == len(page.all("img")) + 1 == 1
    assert "alert(1)" in page.text, "shown as text, not removed"
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    html.encode("utf-8")
    assert "\0" not in html


def test_pictures_tables_and_charts_are_described(page: Page) -> None:
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 4
    assert len(page.all("svg")) == 10
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"


def test_drift_is_the_share_of_each_class_round_by_round(page: Page) -> None:
    drifts = [str(svg["aria-label"]) for svg in page.all("svg") if "Share of each class" in str(svg["aria-label"])]
    pool, adopted = drifts
    assert "neutral: 30, 29.9, 28, 26.1, 24.2;" in pool, "the labelled clips' share, then that of every round"
    assert "surprise: 5, 2.7, 4.6, 0" in adopted, "a round that adopts nothing has no shares"


def test_a_refused_round_is_told_with_its_reason_once(page: Page) -> None:
    assert "Round 3 is not used: The out-of-fold WAF fell by 2.6 points" in page.text
    assert page.text.count("The out-of-fold WAF fell by 2.6 points") == 1


def test_every_candidate_is_shown_and_the_one_taken_is_marked(by_choice: Page) -> None:
    for expected in (
        "student taken", "logistic regression; to compare with", "73.10.8003.0+4.7 ± 2.1", "67.00.9506.0−1.4 ± 2.5",
    ):  # fmt: skip
        assert expected in by_choice.text, expected
    (chart,) = [str(svg["aria-label"]) for svg in by_choice.all("svg") if "Gain" in str(svg["aria-label"])]
    assert "student: +4.7 ± 2.1; mean: −1.4 ± 2.5" in chart
    assert "round_0" not in chart, "the plain learners have no gain over themselves"


def test_the_choice_is_told_with_its_reason_and_what_it_is_worth(by_choice: Page) -> None:
    assert "student labels the clips: it is the one trusted most that is not worse" in by_choice.text
    assert "Its F1 is 73.1, theirs 68.4; its log loss is 0.800, theirs 0.910. Worse by both: mean." in by_choice.text
    assert "The choice itself is worth a weighted F1 of 71.2 out of fold" in by_choice.text
    assert "(student in 2, mean in 1 of 3 folds)" in by_choice.text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (choice("mean"), "mean labels the clips: it is the one trusted most"),
        (choice("round_0"), "round_0, the plain learners, labels the clips: every candidate that learns from"),
        (choice("mean", asked=False), "the labelled clips were not asked (mining.guard=false)."),
        (choice("mean", oof_waf=None, reason="one clip"), "the labelled clips cannot choose: one clip."),
        (choice("mean", oof_waf=None, reason="one clip"), "no weighted F1 of the choice itself: one clip."),
    ],
)
def test_why_a_candidate_labels_the_clips(shown: ChoiceReport, expected: str) -> None:
    text = Page(render(dataclasses.replace(sample(), choice=shown))).text
    assert expected in text
    assert "Worse by both" not in text


def test_where_clips_teach_by_probabilities_there_is_no_word_of_agreement(by_choice: Page, page: Page) -> None:
    for text in ("agreed on", "agree on", "Adopted", "adopted after"):
        assert text not in by_choice.text
        assert text in page.text or text == "adopted after"
    assert "Learning from 158 of the 352 unlabelled clips, by probabilities of all classes, raised" in by_choice.text
    assert "What was learnt from" in by_choice.text
    assert "shuffled probabilities" in by_choice.text
    assert "Learnt from in round 1." in by_choice.text
    assert "candidates" not in page.text.lower()


def test_how_sure_is_drawn_against_how_right(by_choice: Page, page: Page) -> None:
    (chart,) = [str(svg["aria-label"]) for svg in by_choice.all("svg") if "Share right" in str(svg["aria-label"])]
    assert "40 sure, 50 right, 8 clips; 70 sure, 60 right, 8 clips; 95 sure, 90 right, 8 clips" in chart
    assert "expected calibration error, is 8.3 points" in by_choice.text
    assert "On test clips it is 5.0, and was 12.0 before the probabilities were tempered." in by_choice.text
    assert "Is it as sure" not in page.text


def test_without_optional_parts_it_still_reads() -> None:
    whole = sample()
    data = ReportData(
        whole.title, 0, "d", "today", {}, Counts(10, 10, 0, 10, 0, 0, 0, 0), CLASSES, "out-of-fold", None, ()
    )
    page = Page(render(data))
    assert "10 of 10 clips now have a label. No clip had a label to score them by." in page.text
    assert not page.all("svg")
    assert "No step failed on any clip." in page.text


def test_out_of_fold_figures_are_called_so() -> None:
    rounds = tuple(dataclasses.replace(one, test_waf=None) for one in sample().rounds)
    text = Page(render(dataclasses.replace(sample(), scored_on="out-of-fold", rounds=rounds))).text
    assert "from 68.4" in text
    assert "labelled clips held out of training" in text


def test_a_loss_is_not_sold_as_a_gain() -> None:
    text = Page(render(dataclasses.replace(sample(), scores=scores(right=0.3)))).text
    assert "did not help" in text
    assert "raised" not in text


def test_test_clips_are_named_where_they_may_be_adopted() -> None:
    text = Page(render(dataclasses.replace(sample(), adopts_test=True))).text
    assert "Learning from 158 of the 352 unlabelled and test clips" in text
    assert "Unlabelled and test clips that the learners agreed on" in text


def test_a_result_no_better_than_chance_is_told_before_all_else() -> None:
    data = dataclasses.replace(sample(), scores=scores(right=0.0))
    headline = next(re.finditer(r'<p class="lead">(.*?)</p>', render(data)))[1]
    assert headline.startswith("No better than chance: on 118 clips the weighted F1 is ")
    assert headline.endswith("591 of 600 clips now have a label.")
    assert "raised" not in headline
    assert "better than chance" not in render(sample())


def test_the_same_data_gives_the_same_page() -> None:
    assert render(sample()) == render(sample())


def test_no_two_of_ten_classes_share_a_colour() -> None:
    names = ("angry", "happy", "sad", "neutral", "surprised", "fearful", "disgusted", "contempt", "bored", "amused")
    assert len(set(class_colours(names).values())) == 10
