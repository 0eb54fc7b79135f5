"""Facts about the machine that this code runs on, a host or the controller.

This module must not know sessions or slots.
"""

import os
import platform

from .model import HostFacts


def count_cores() -> int:
    """Return the number of CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def collect_host_facts() -> HostFacts:
    """Return the facts about this machine."""
    system = os.uname()
    return HostFacts(
        name=system.nodename,
        system="%s %s" % (system.sysname, system.release),
        machine=system.machine,
        python=platform.python_version(),
        cores=count_cores(),
    )
