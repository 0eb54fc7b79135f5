"""What the dispatcher decides: functions of values.  No clock, no I/O, nothing random."""
