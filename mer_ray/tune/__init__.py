"""Where rounds meet Ray Tune."""
