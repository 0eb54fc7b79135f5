"""Hosts as network namespaces whose links can be cut, delayed and made lossy.

Each namespace has a TUN device; a thread forwards IP packets from device to device.  The only
kernel module needed is ``tun``.
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
class Link:
    """The link of one host; may be changed at any time."""

    #: Seconds that a packet takes in each direction.
    delay: float = 0.0
    #: Fraction of packets that are lost, from 0 to 1.
    loss: float = 0.0
    #: Whether all packets are lost.
    is_cut: bool = False


class NamespaceNetwork:
    """A network of this namespace and ``count`` others; ``addresses[0]`` is ours."""

    def __init__(self, count: int) -> None:
        # Runs at the same time must have different names and addresses.
        unique = os.getpid() % 60_000
        prefix = f"10.{200 + unique // 250 % 50}.{unique % 250}"
        self.addresses = [f"{prefix}.{number + 1}" for number in range(count + 1)]
        self.names = [f"nj{unique}h{number}" for number in range(count + 1)]
        self.links = [Link() for _ in range(count + 1)]
        self._tuns: list[int] = []
        self._stop, self._stop_writer = os.pipe()
        self._thread = threading.Thread(target=self._forward, daemon=True)
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
        os.close(self._stop_writer)
        self._thread.join()
        os.close(self._stop)
        self._remove()

    def build_command(self, number: int, *command: str) -> list[str]:
        """Return the command that runs ``command`` in the namespace of host ``number`` (from 1)."""
        return ["ip", "netns", "exec", self.names[number], *command]

    def _make(self, number: int) -> None:
        name = self.names[number]
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._tuns.append(tun)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
        namespace: list[str] = []
        if number:
            _ip("netns", "add", name)
            _ip("link", "set", name, "netns", name)
            namespace = ["-n", name]
            _ip(*namespace, "link", "set", "lo", "up")
        _ip(*namespace, "addr", "add", f"{self.addresses[number]}/24", "dev", name)
        _ip(*namespace, "link", "set", name, "mtu", str(_MTU), "up")

    def _remove(self) -> None:
        for tun in self._tuns:
            os.close(tun)
        self._tuns.clear()
        for name in self.names[1:]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    # -- forwarding ------------------------------------------------------------------

    def _forward(self) -> None:
        """Forward packets until the network is closed."""
        poller = select.poll()
        poller.register(self._stop, select.POLLHUP)
        for tun in self._tuns:
            poller.register(tun, select.POLLIN)
        delayed: list[tuple[float, int, int, bytes]] = []
        count = 0
        while True:
            wait = max(delayed[0][0] - time.monotonic(), 0) * 1000 if delayed else None
            for descriptor, _ in poller.poll(wait):
                if descriptor == self._stop:
                    return
                for packet in self._read(descriptor):
                    count += 1
                    self._send(descriptor, packet, delayed, count)
            while delayed and delayed[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(delayed)
                self._write(to, packet)

    def _read(self, tun: int) -> list[bytes]:
        packets: list[bytes] = []
        with contextlib.suppress(OSError):
            while len(packets) < 64:
                packets.append(os.read(tun, _MTU + 100))
        return packets

    def _send(
        self, source: int, packet: bytes, delayed: list[tuple[float, int, int, bytes]], count: int
    ) -> None:
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return
        address = ".".join(map(str, packet[16:20]))
        if address not in self.addresses:
            return
        to = self.addresses.index(address)
        links = (self.links[self._tuns.index(source)], self.links[to])
        if any(link.is_cut or self._random.random() < link.loss for link in links):
            return
        delay = sum(link.delay for link in links)
        if delay:
            heapq.heappush(delayed, (time.monotonic() + delay, count, self._tuns[to], packet))
        else:
            self._write(self._tuns[to], packet)

    def _write(self, tun: int, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # a full queue drops, as a real one does
            os.write(tun, packet)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
