"""Where stages meet Ray Data."""
