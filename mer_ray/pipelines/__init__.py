"""What each job does, as a sequence one can read aloud."""
