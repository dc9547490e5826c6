"""Training tasks, one file each: which clips, which network, which loss, and what is left for an encoder to load."""
