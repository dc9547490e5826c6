"""Speech steps that need no model of their own."""
