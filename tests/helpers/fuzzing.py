"""The time limit and the corpus of fuzzers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

#: Seconds that each fuzzer runs; ``make fuzz`` sets more.
FUZZ_SECONDS = float(os.environ.get("NOSEJOBS_FUZZ_SECONDS", "2"))

_CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"


def iterate_seeds() -> Iterator[random.Random]:
    """Yield one random generator after the other until the time is over, with known seeds.

    A failure names its seed by ``random.Random(seed)``: seeds count from 0, or from
    ``NOSEJOBS_FUZZ_SEED``.
    """
    first = int(os.environ.get("NOSEJOBS_FUZZ_SEED", "0"))
    deadline = time.monotonic() + FUZZ_SECONDS
    seed = first
    while seed == first or time.monotonic() < deadline:
        yield random.Random(seed)
        seed += 1


@contextlib.contextmanager
def limit_processor_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError once this process has used ``seconds`` of processor time.

    An endless loop becomes a failure, and a busy machine does not.
    """

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"more than {seconds:g} s of processor time")

    previous = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def load_corpus(name: str) -> list[bytes]:
    """Return the found cases of one fuzzer: the files of its folder in the corpus, by name."""
    return [path.read_bytes() for path in sorted((_CORPUS / name).iterdir())]


def mutate(rng: random.Random, data: bytes, changes: int = 8) -> bytes:
    """Return ``data`` with up to ``changes`` bytes or ranges changed, removed, or repeated."""
    result = bytearray(data)
    for _ in range(rng.randint(1, changes)):
        at = rng.randrange(len(result) + 1)
        action = rng.randrange(4)
        if action == 0 and at < len(result):
            result[at] = rng.choice((0, 0x20, 0x2F, 0x7F, 0xFF, rng.randrange(256)))
        elif action == 1:
            del result[at : at + rng.randint(1, 16)]
        elif action == 2:
            result[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            result[at:at] = result[at : at + rng.randint(1, 64)]
    return bytes(result)


class ForbiddenInput:
    """A standard input whose use is a failure: code that reads it would wait for ever."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the standard input was used: {name}")
