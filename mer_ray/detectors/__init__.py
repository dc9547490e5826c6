"""Face detectors: one file per engine; see ``base``."""
