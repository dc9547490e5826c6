"""Classifiers fitted by algebra instead of by epochs, for few labels: one file per plug-in."""
