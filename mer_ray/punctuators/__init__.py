"""Punctuation of recognised words: one file per model; see ``base``."""
