"""Fuzzers: random and mutated input for everything that reads bytes of others.

Each runs for seconds in the test run, and longer with ``make fuzz``; ``corpus/`` has the inputs
that once did harm.
"""
