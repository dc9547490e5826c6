"""Feature encoders: one file per model family; see ``base``."""
