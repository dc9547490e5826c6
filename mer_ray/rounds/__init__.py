"""The steps of the mining loop that are not strategies."""
