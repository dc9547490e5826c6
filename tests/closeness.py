"""What it is for an encoder to give what its library gives: shared by the encoders' tests."""

import numpy as np


def assert_close(ours, theirs, spread=1e-4):
    """Of one shape, and nowhere apart by more than a share of the largest value."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=spread * np.abs(theirs).max())
