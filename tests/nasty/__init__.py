"""Programs that hurt who runs them, and what has to come of each."""
