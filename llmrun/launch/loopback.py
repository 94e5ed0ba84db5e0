"""The loopback interface, over which the processes of one machine connect.

Its name and address are read from the system: a container may not resolve `localhost`, and a cluster may resolve it
to another address.
"""

import socket
from dataclasses import dataclass

import psutil

from llmrun.errors import RefusedError

ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
"""The addresses that a loopback interface may have, the preferred one first."""

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
"""Interface of gloo, NCCL and TensorPipe; a cluster may set it to one that leads to other machines."""

TORCHRUN_OPTIONS = "PET_"
"""Prefix of the variables that torchrun takes options from; workers do not get them."""


@dataclass(frozen=True)
class Loopback:
    """A loopback interface.

    interface: its name, such as `lo`.
    address:   `127.0.0.1`, or `::1` if it has no IPv4 address.
    """

    interface: str
    address: str

    @property
    def endpoint(self) -> str:
        """The address with port 0, which lets the system choose a free one."""
        return f"[{self.address}]:0" if ":" in self.address else f"{self.address}:0"


def find_loopback() -> Loopback:
    """Find the loopback interface that is up, by its flags.  Raises RefusedError if there is none."""
    addresses = psutil.net_if_addrs()
    for name, state in psutil.net_if_stats().items():
        flags = state.flags.split(",")
        if "loopback" not in flags or not state.isup:
            continue
        held = {(found.family, found.address) for found in addresses.get(name, ())}
        for wanted in ADDRESSES:
            if wanted in held:
                return Loopback(name, wanted[1])
    raise RefusedError(
        "cannot start workers: no loopback interface of this machine is up with 127.0.0.1 or ::1",
        hints=["`ip link set lo up`"],
    )
