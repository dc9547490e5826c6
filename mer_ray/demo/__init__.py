"""The embedded demo: synthetic talking-face clips with known emotions, made on the spot."""
