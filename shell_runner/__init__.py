"""How one program becomes one result, on any host.

This package owns discovery, metadata, hosts, gateways and shipping.  It knows
nothing of pytest and nothing of builds or stages.
"""

__version__ = "0.1.0"
