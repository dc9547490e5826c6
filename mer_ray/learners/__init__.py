"""Fitting one learner over its folds, in memory."""
