"""Source separators: one file per engine; see ``base``."""
