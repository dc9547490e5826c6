"""What the demo's people say: a small vocabulary with its sounds, and a grammar that makes sentences of it."""

from __future__ import annotations

import re
from functools import cache

import numpy as np

EMOTION_WORDS: dict[str, tuple[str, ...]] = {
    "anger": (
        "furious",
        "angry",
        "hate",
        "disgusting",
        "unfair",
        "liar",
        "enough",
        "shame",
        "stupid",
        "insult",
        "outrage",
        "blame",
        "fight",
        "betrayed",
        "ridiculous",
        "unbelievable",
        "scandal",
    ),
    "happiness": (
        "happy",
        "wonderful",
        "joyful",
        "glad",
        "laugh",
        "smile",
        "delighted",
        "celebrate",
        "beautiful",
        "party",
        "sunshine",
        "enjoy",
        "amazing",
        "birthday",
        "fantastic",
        "present",
        "perfect",
    ),
    "sadness": (
        "sad",
        "crying",
        "lonely",
        "missing",
        "tears",
        "sorrow",
        "grief",
        "alone",
        "funeral",
        "broken",
        "farewell",
        "hopeless",
        "lost",
        "enough",
        "unhappy",
        "sighing",
        "goodbye",
    ),
    "worry": (
        "worried",
        "afraid",
        "nervous",
        "danger",
        "trouble",
        "risk",
        "careful",
        "anxious",
        "hospital",
        "police",
        "missing",
        "lost",
        "shock",
        "doctor",
        "problem",
        "accident",
        "uneasy",
    ),
    "surprise": (
        "wow",
        "really",
        "suddenly",
        "unbelievable",
        "unexpected",
        "shock",
        "incredible",
        "magic",
        "impossible",
        "amazing",
        "goodness",
        "strange",
        "puzzled",
        "present",
        "heavens",
        "mystery",
        "surprised",
    ),
    "neutral": (
        "regular",
        "normal",
        "ordinary",
        "usual",
        "simple",
        "common",
        "standard",
        "general",
        "typical",
        "average",
    ),
}
"""Words that tell a class; a few tell two of them."""

SLOTS: dict[str, tuple[str, ...]] = {
    "when": ("today", "yesterday", "tomorrow", "tonight", "again"),
    "who": ("mother", "grandpa", "sister", "nobody", "teacher", "children", "somebody"),
    "does": ("remembers", "finds", "brought", "showed", "wanted", "believes", "forgets"),
    "what": ("kitchen", "letter", "garden", "window", "dinner", "picture", "station", "computer", "morning", "table"),
}
"""Words that tell nothing, by their place in a sentence."""

SENTENCES = (
    "who does what feeling",
    "when who does feeling",
    "feeling who does what",
    "what who feeling when",
    "who feeling what when",
    "feeling what when",
    "who feeling does feeling",
    "when feeling who feeling",
)
"""The grammar: each sentence is a row of slots, ``feeling`` taking a word of ``EMOTION_WORDS``."""

VOWELS = ("a", "e", "i", "o", "u")

_SPELLINGS = (
    ("ght", ("t",)),
    ("sch", ("s", "k")),
    ("tion", ("sh", "o", "n")),
    ("sh", ("sh",)),
    ("ch", ("t", "sh")),
    ("th", ("f",)),
    ("ph", ("f",)),
    ("ck", ("k",)),
    ("qu", ("k", "w")),
    ("ee", ("i",)),
    ("ea", ("i",)),
    ("oo", ("u",)),
    ("ou", ("a", "u")),
    ("ow", ("a", "u")),
    ("ai", ("e", "i")),
    ("ay", ("e", "i")),
    ("x", ("k", "s")),
    ("j", ("d", "sh")),
    ("ce", ("s", "e")),
    ("ci", ("s", "i")),
    ("cy", ("s", "i")),
    ("c", ("k",)),
    ("y", ("i",)),
    *((letter, (letter,)) for letter in "abdefghiklmnoprstuvwz"),
)


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of the demo, sorted."""
    groups = [*EMOTION_WORDS.values(), *SLOTS.values()]
    return tuple(sorted({word for group in groups for word in group}))


@cache
def phones(word: str) -> tuple[str, ...]:
    """The sounds of a word, read off its spelling: one rule per spelling, doubled sounds said once.

    >>> phones("shock"), phones("happy")
    (('sh', 'o', 'k'), ('h', 'a', 'p', 'i'))
    """
    sounds: list[str] = []
    rest = re.sub(r"(?<=[^aeiou])e$", "", word.lower()) if len(word) > 4 else word.lower()
    while rest:
        spelling, said = next(rule for rule in _SPELLINGS if rest.startswith(rule[0]))
        sounds.extend(sound for sound in said if not sounds or sounds[-1] != sound)
        rest = rest[len(spelling) :]
    return tuple(sounds)


def sentence(feelings: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """The words of one sentence whose ``feeling`` slots take words of the classes ``feelings`` in turn."""
    words: list[str] = []
    taken = 0
    for slot in SENTENCES[rng.integers(len(SENTENCES))].split():
        if slot == "feeling":
            choices = EMOTION_WORDS[feelings[taken % len(feelings)]]
            taken += 1
        else:
            choices = SLOTS[slot]
        words.append(choices[rng.integers(len(choices))])
    return tuple(words)
