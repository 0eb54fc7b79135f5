"""The engine that runs programs as tests, locally and on hosts.

Finds tests, reads their metadata, opens hosts, ships files, runs tests and jobs, and writes
reports.  This package must not know pytest, builds or stages.
"""

__version__ = "0.1.0"
