"""What the machine that this runs on says of itself, be it a host or the controller.

Owns the asking.  Must not know sessions or slots.
"""

import os
import platform

from .model import HostFacts


def count_cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def collect_host_facts() -> HostFacts:
    """What this host says of itself."""
    system = os.uname()
    return HostFacts(
        name=system.nodename,
        system="%s %s" % (system.sysname, system.release),
        machine=system.machine,
        python=platform.python_version(),
        cores=count_cores(),
    )
