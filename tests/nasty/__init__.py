"""Programs that harm the process that runs them, and the expected results."""
