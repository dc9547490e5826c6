"""Multimodal emotion recognition that labels a pool of clips by voting learners, made distributed with Ray."""

__version__ = "0.1.0"
