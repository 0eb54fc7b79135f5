"""The TCP of a connection between a controller and an agent, as both ends set it up.

Owns the port, and after how long a silent network is a dead one.  Must not know TLS or
what is said.
"""

import socket
import sys

#: Where an agent listens, unless told otherwise.
PORT = 7422
#: Seconds of a silent network after which a connection is dead, unless its hello says another.
SILENCE = 15.0
_KEEPALIVE = ("TCP_KEEPIDLE", "TCP_KEEPINTVL")
#: Some Pythons for Linux are built without the name.
_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)


def tune(sock: socket.socket, silence: float = SILENCE) -> None:
    """Notice a dead network, and send small messages at once."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in _KEEPALIVE:
        if hasattr(socket, name):
            option = getattr(socket, name)
            sock.setsockopt(socket.IPPROTO_TCP, option, max(int(silence / 3), 1))
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(silence * 1000))
