"""Paging modes by name: the built-in ones, and what registers under the entry-point group `twofold.paging`."""

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from twofold import registry
from twofold.formats.table_formats import TableFormat
from twofold.p2m import P2M
from twofold.paging.fault import AccessFault
from twofold.paging.resolvers import Resolver
from twofold.paging.space import GuestSpace, Roots
from twofold.units import Mfn

GROUP: Final = "twofold.paging"
BUILT_IN: Final = {"hap": "twofold.paging.hap:Hap"}


class Paging(Protocol):
    """The paging of one domain: what guests, engines and models of hardware ask; `paging.hap` explains it."""

    @property
    def name(self) -> str:
        """What the mode is called."""

    @property
    def root(self) -> Mfn:
        """The top table that the hypervisor gives to the hardware."""

    @property
    def format(self) -> TableFormat:
        """The format of the tables below it."""

    def roots(self, space: GuestSpace) -> Roots:
        """Return where hardware begins its walks for a guest's address space."""

    def walk(
        self, space: GuestSpace | None, address: int, access: int, out_steps: npt.NDArray[np.uint64]
    ) -> tuple[int, int, int, int]:
        """Return (status, steps, maddr, writable) of one walk, and touch nothing."""

    def translate(
        self, space: GuestSpace | None, address: int, access: int, out_steps: npt.NDArray[np.uint64]
    ) -> tuple[int, int, int, int]:
        """Translate an access as hardware does."""

    def allows(self, gpa: int, access: str = "read") -> bool:
        """Return whether an access to guest-physical memory goes through."""

    def fault_at(self, gpa: int, access: str = "read") -> AccessFault | None:
        """Return how an access to guest-physical memory is refused, None when it is not."""

    def fault_of(
        self, space: GuestSpace | None, address: int, access: int, status: int, steps: npt.NDArray[np.uint64]
    ) -> AccessFault:
        """Return what a walk that failed means."""

    def on_fault(self, resolver: Resolver) -> None:
        """Ask a resolver about accesses that are refused."""

    def off_fault(self, resolver: Resolver) -> None:
        """Ask it no more."""

    def resolve(self, fault: AccessFault) -> AccessFault | None:
        """Let the resolvers mend a fault: None when they have, otherwise the fault to deliver."""


class PagingMode(Protocol):
    """What makes the paging of a domain; a class that takes its P2M, such as `Hap`."""

    def __call__(self, p2m: P2M) -> Paging:
        """Return the paging of the domain whose P2M this is."""


def paging_names() -> tuple[str, ...]:
    """Return the names of all paging modes that are installed, the built-in ones first."""
    return registry.names_of(GROUP, BUILT_IN)


def is_paging(name: str) -> bool:
    """Return whether there is a paging mode of this name."""
    return registry.is_known(GROUP, BUILT_IN, name)


def get_paging(name: str) -> PagingMode:
    """Return a paging mode by name.

    Raises
    ------
    UnknownNameError : no installed paging mode has that name
    """
    mode: PagingMode = registry.load("paging mode", GROUP, BUILT_IN, name)
    return mode
