"""What a domain knows of the machine that it lives on: hardware, how its hypervisor is set, and who else lives there.

`Machine` is this plus what makes domains; so no domain has to know what a machine is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

from twofold.machine import Hardware
from twofold.p2m import P2M
from twofold.units import Order


class Neighbour(Protocol):
    """What one domain sees of another."""

    domid: int
    p2m: P2M

    @property
    def is_dying(self) -> bool:
        """Whether it is being destroyed, or has been."""


class Host(Hardware, ABC):
    """The hardware as a hypervisor has set it up.

    Attributes
    ----------
    paging : the hypervisor's own mode, which decides the format of its NPT
    page_sizes : orders of P2M leaves that the machine allows, ascending
    seed : what random choices on this machine start from
    domains : all that live here, by domid
    """

    paging: str
    page_sizes: tuple[Order, ...]
    seed: int
    domains: Mapping[int, Neighbour]

    @abstractmethod
    def forget(self, domid: int) -> None:
        """Take a destroyed domain off the list; the domain calls this."""
