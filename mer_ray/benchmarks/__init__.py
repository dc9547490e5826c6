"""What ``jobs/bench.py`` runs, one file each."""
