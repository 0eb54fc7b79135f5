"""TCP settings of a connection between a controller and an agent, for both ends.

Owns the default port and the default timeout of a silent network.  Must not know TLS or the
messages.
"""

import socket
import sys

#: TCP port of an agent unless ``--listen`` names another one.
DEFAULT_PORT = 7422
#: Seconds without any network traffic after which a connection is closed, unless the hello names
#: another number.
DEFAULT_SILENCE = 15.0
_KEEPALIVE = ("TCP_KEEPIDLE", "TCP_KEEPINTVL")
#: Some builds of Python for Linux lack the name; its number is the kernel's.
_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)


def configure_socket(sock: socket.socket, silence: float = DEFAULT_SILENCE) -> None:
    """Make a socket non-blocking, detect a dead network, and send small messages at once.

    ``silence``: seconds without an acknowledgment after which the kernel closes the connection.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in _KEEPALIVE:
        if hasattr(socket, name):
            option = getattr(socket, name)
            sock.setsockopt(socket.IPPROTO_TCP, option, max(int(silence / 3), 1))
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(silence * 1000))
