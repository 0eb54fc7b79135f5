"""Builds, stages, tags and promotion, on top of durable jobs.

This package is responsible for everything between a commit and a build that is ready to ship.  It
runs no programs of builds itself: it submits jobs to hosts through ``shell_runner``.
"""
