"""Settings of Python's garbage collector while thousands of tests are collected and reported.

Items and reports live until the end of the session.  To search them for garbage again and again
would take a tenth of the controller's time.
"""

from __future__ import annotations

import gc

#: Number of new objects between two collections of the youngest generation; Python's default
#: is 700 to 10 000.
_YOUNG_THRESHOLD = 50_000


class GcTuning:
    """The settings during a run of many programs; without ``begin``, nothing changes."""

    def __init__(self) -> None:
        self._saved_threshold: tuple[int, int, int] | None = None

    def begin(self) -> None:
        """Collect garbage less often.  Called before collection of tests, or at its end."""
        if self._saved_threshold is not None:
            return
        self._saved_threshold = gc.get_threshold()
        if self._saved_threshold[0]:  # 0: the collector is switched off
            gc.set_threshold(_YOUNG_THRESHOLD, *self._saved_threshold[1:])

    def freeze(self) -> None:
        """Exempt all present objects: the items before the tests run, later the reports."""
        gc.freeze()

    def end(self) -> None:
        """Restore the settings; may be called more than once."""
        if self._saved_threshold is not None:
            gc.unfreeze()
            gc.set_threshold(*self._saved_threshold)
            self._saved_threshold = None
