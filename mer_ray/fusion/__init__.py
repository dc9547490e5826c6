"""Fusion models: one file per model; see ``base``."""
