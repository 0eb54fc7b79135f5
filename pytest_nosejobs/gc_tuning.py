"""Python's garbage collector while thousands of tests are collected and reported.

Owns its settings during a run on hosts.  Items and reports stay until the end: to look
through them for garbage again and again would take a tenth of the controller's time.
"""

from __future__ import annotations

import gc

#: New objects between two looks at the young ones; Python's own is 700 to 10 000.
_YOUNG = 50_000


class Patience:
    """The collector looks less often, and not at what was there before the tests ran."""

    def __init__(self) -> None:
        self._before: tuple[int, int, int] | None = None

    def begin(self) -> None:
        """Before collection."""
        self._before = gc.get_threshold()
        if self._before[0]:  # 0: somebody has switched it off
            gc.set_threshold(_YOUNG, *self._before[1:])

    def spare(self) -> None:
        """What is there now is not looked at any more: items before the tests, then reports."""
        gc.freeze()

    def end(self) -> None:
        """As it was; may be called twice, and without a beginning."""
        if self._before is not None:
            gc.unfreeze()
            gc.set_threshold(*self._before)
            self._before = None
