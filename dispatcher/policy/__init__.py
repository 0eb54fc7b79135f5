"""Decisions of the dispatcher as functions of values: no clock, no I/O, no random numbers."""
