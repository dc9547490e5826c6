"""The page of one clip: complete, harmless, self-contained."""

import dataclasses
import re

from mer_ray.evaluation import story as stories
from mer_ray.evaluation.report import ClipReport, Vote
from mer_ray.evaluation.story import Adopted, ClipRound, Story

CLIP = ClipReport(
    "a007",
    "unlabeled",
    "anger",
    0.71,
    votes=(Vote("all", "anger", 0.8), Vote("audio_text", "worry", None)),
    weights={"audio": 0.7, "text": 0.3},
    without={"audio": 0.25, "text": -0.04},
    nearest=(("a001", "anger"), ("a002", "worry")),
    transcript="Give it back!",
    faces=(b"\xff\xd8",),
    round_adopted=0,
)
SAID = {"all": {"anger": 0.8, "worry": 0.2}, "audio_text": {"anger": 0.4, "worry": 0.6}}
BY_FOLDS = tuple(Adopted(fold, "anger", 3, 0.8, learner) for fold in (0, 1) for learner in SAID)
ROUNDS = (
    ClipRound(0, True, "labelled clips alone", False, SAID, BY_FOLDS),
    ClipRound(1, True, "the last", True, SAID, ()),
    ClipRound(2, False, "it fell by more than 0.02", False, SAID, ()),
)
STORY = Story("runs/x", "unlabeled", CLIP, {"anger": 0.71, "worry": 0.29}, ROUNDS, (("faces", "unreadable", "cut"),))


def test_the_headline_says_who_what_and_when():
    told = stories.headline(STORY)
    assert "a007 is labelled anger: 1 of 2 learners say so." in told
    assert "rests on audio: without it the label loses 25.0 points" in told
    assert "It was learnt from after round 0, as anger" in told
    unused = dataclasses.replace(STORY, clip=dataclasses.replace(CLIP, round_adopted=None))
    assert "learnt from" not in stories.headline(unused), "the round that would have learnt from it was refused"
    doubted = dataclasses.replace(STORY, clip=dataclasses.replace(CLIP, given_label="worry", without={}))
    assert "The manifest says worry" in stories.headline(doubted)
    assert "rests" not in stories.headline(doubted)


def test_every_part_is_on_the_page_and_nothing_from_outside():
    page = stories.render(STORY)
    for told in (
        "a001",
        "Give it back!",
        "data:image/jpeg",
        "in 2 folds",
        "refused",
        "it fell by",
        "unreadable",
        "final",
    ):
        assert told in page, told
    assert len(re.findall("<svg", page)) == 3
    assert "script" not in page.split("</style>")[1]
    assert not re.search(r"""(src|href|url|@import)\s*[=(]\s*["']?\s*(https?:|//)""", page)


def test_the_last_model_is_told_beside_the_folds():
    last = (Adopted(None, "anger", 3, 0.9, "all"), Adopted(None, "worry", 3, 0.9, "all"))
    page = stories.render(dataclasses.replace(STORY, rounds=(dataclasses.replace(ROUNDS[0], adopted=BY_FOLDS + last),)))
    assert ">anger</span> in 2 folds and the last model" in page
    assert ">worry</span> in the last model" in page


def test_a_labelled_clip_was_trained_on_only_in_a_run_of_its_own():
    own = dataclasses.replace(STORY, split="train")
    assert "was trained on" in stories.render(own)
    assert "was trained on" not in stories.render(dataclasses.replace(own, rounds=())), "a prediction trains on nothing"


def test_hostile_text_comes_out_harmless():
    attack = "</table><script>alert(1)</script>"
    clip = dataclasses.replace(CLIP, clip_id=attack, transcript=attack, nearest=((attack, attack),))
    page = stories.render(dataclasses.replace(STORY, clip=clip, errors=((attack, attack, attack),)))
    assert "<script" not in page
    assert page.count("alert(1)") >= 5
