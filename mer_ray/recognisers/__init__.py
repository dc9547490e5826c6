"""Speech recognisers: one file per engine; see ``base``."""
