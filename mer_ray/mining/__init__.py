"""Selection strategies: one file per strategy; see ``base``."""
