"""Pytest glue: non-Python tests as items, run here and on hosts.

This package owns options, collection, the run loop and reports.  It knows
``shell_runner`` and nothing of builds or stages.
"""
