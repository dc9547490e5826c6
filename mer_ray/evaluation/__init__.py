"""Scores, explanations and the report."""
