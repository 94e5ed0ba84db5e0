"""The loopback interface, over which the processes of one machine meet.

Its name and address are looked up, never `localhost`: a container may not resolve that, and a cluster may
resolve it to something else.
"""

import socket
from dataclasses import dataclass

import psutil

from llmrun.errors import RefusedError

ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
"""The addresses that a loopback interface may have, the preferred one first."""

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
"""Which interface gloo, NCCL and TensorPipe use: a cluster's setting names one that leads to other machines."""

TORCHRUN_OPTIONS = "PET_"
"""Beginning of the variables that are options of torchrun: the launcher gives all options that it means."""


@dataclass(frozen=True)
class Loopback:
    """The interface that leads to this machine itself, by its flags.

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
    """The loopback interface that is up.  Raises RefusedError if there is none: no two processes could meet."""
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
