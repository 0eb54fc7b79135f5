"""Hosts as network namespaces, with a wire between them that can be cut, delayed and made lossy.

Each namespace has one TUN device; a thread here is the wire: it carries IP packets from
device to device.  The kernel needs no module for that but ``tun``.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Self

import pytest

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MTU = 1500


@dataclass
class Wire:
    """How one host is connected; may be changed at any time."""

    #: Seconds that a packet takes, each way.
    delay: float = 0.0
    #: Part of the packets that never arrive.
    loss: float = 0.0
    #: Nothing arrives.
    cut: bool = False


class Network:
    """This namespace and ``count`` others: ``addresses[0]`` is ours."""

    def __init__(self, count: int) -> None:
        # One run beside another must not have the same names or addresses.
        mark = os.getpid() % 60_000
        prefix = f"10.{200 + mark // 250 % 50}.{mark % 250}"
        self.addresses = [f"{prefix}.{number + 1}" for number in range(count + 1)]
        self.names = [f"nj{mark}h{number}" for number in range(count + 1)]
        self.wires = [Wire() for _ in range(count + 1)]
        self._tuns: list[int] = []
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._random = random.Random(7)

    def __enter__(self) -> Self:
        try:
            for number in range(len(self.names)):
                self._make(number)
        except (OSError, subprocess.CalledProcessError) as error:
            self._remove()
            pytest.skip(f"network namespaces cannot be made here: {error}")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopper)
        self._thread.join()
        os.close(self._stop)
        self._remove()

    def inside(self, number: int, *command: str) -> list[str]:
        """The command, to be run in the namespace of host ``number`` (from 1)."""
        return ["ip", "netns", "exec", self.names[number], *command]

    def _make(self, number: int) -> None:
        name = self.names[number]
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._tuns.append(tun)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
        where: list[str] = []
        if number:
            _ip("netns", "add", name)
            _ip("link", "set", name, "netns", name)
            where = ["-n", name]
            _ip(*where, "link", "set", "lo", "up")
        _ip(*where, "addr", "add", f"{self.addresses[number]}/24", "dev", name)
        _ip(*where, "link", "set", name, "mtu", str(_MTU), "up")

    def _remove(self) -> None:
        for tun in self._tuns:
            os.close(tun)
        self._tuns.clear()
        for name in self.names[1:]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    # -- the wire -------------------------------------------------------------------

    def _carry(self) -> None:
        """Until the network is closed."""
        poller = select.poll()
        poller.register(self._stop, select.POLLHUP)
        for tun in self._tuns:
            poller.register(tun, select.POLLIN)
        late: list[tuple[float, int, int, bytes]] = []
        count = 0
        while True:
            wait = max(late[0][0] - time.monotonic(), 0) * 1000 if late else None
            for descriptor, _ in poller.poll(wait):
                if descriptor == self._stop:
                    return
                for packet in self._read(descriptor):
                    count += 1
                    self._send(descriptor, packet, late, count)
            while late and late[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(late)
                self._write(to, packet)

    def _read(self, tun: int) -> list[bytes]:
        found: list[bytes] = []
        with contextlib.suppress(OSError):
            while len(found) < 64:
                found.append(os.read(tun, _MTU + 100))
        return found

    def _send(
        self, source: int, packet: bytes, late: list[tuple[float, int, int, bytes]], count: int
    ) -> None:
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return
        address = ".".join(map(str, packet[16:20]))
        if address not in self.addresses:
            return
        to = self.addresses.index(address)
        ends = (self.wires[self._tuns.index(source)], self.wires[to])
        if any(wire.cut or self._random.random() < wire.loss for wire in ends):
            return
        delay = sum(wire.delay for wire in ends)
        if delay:
            heapq.heappush(late, (time.monotonic() + delay, count, self._tuns[to], packet))
        else:
            self._write(self._tuns[to], packet)

    def _write(self, tun: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # a full queue drops, as a real one does
            os.write(tun, packet)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
