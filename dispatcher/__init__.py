"""Builds, stages, tags and promotion, layered on durable jobs.

This package owns what happens between a commit and a build that is ready to
ship.  It runs nothing itself: jobs go to hosts through ``shell_runner``.
"""
