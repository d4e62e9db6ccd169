"""Who makes a hypercall, and the memory that its handles point into."""

from dataclasses import dataclass
from typing import Protocol, Self

from twofold.domain.domain import Domain
from twofold.errors import AddressError, PermissionFaultError
from twofold.formats.p2m_types import P2MType
from twofold.units import FRAME_SHIFT

_WRITABLE = {P2MType.RAM_RW, P2MType.RAM_LOGDIRTY, P2MType.MAP_FOREIGN, P2MType.GRANT_MAP_RW}


class CallerMemory(Protocol):
    """What a caller's handles point into. What it cannot read or write raises a TwofoldError: a fault."""

    def read(self, address: int, bytes_: int, /) -> bytes:
        """Return bytes at an address."""

    def write(self, address: int, data: bytes, /) -> None:
        """Store bytes at an address, all or none."""


class Buffer:
    """The memory of a caller outside the machine, such as the toolstack: one range of bytes.

    Parameters
    ----------
    bytes_ : its length
    base : its first address; nothing below can be read, so a null pointer faults
    """

    def __init__(self, bytes_: int, base: int = 0x1000) -> None:
        self._data = bytearray(bytes_)
        self._base = base

    def read(self, address: int, bytes_: int) -> bytes:
        """Return bytes at an address."""
        offset = self._offset(address, bytes_)
        return bytes(self._data[offset : offset + bytes_])

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at an address."""
        offset = self._offset(address, len(data))
        self._data[offset : offset + len(data)] = data

    def _offset(self, address: int, bytes_: int) -> int:
        offset = address - self._base
        if offset < 0 or offset + bytes_ > len(self._data):
            raise AddressError("address", address, f"+ {bytes_} bytes is not in the caller's memory")
        return offset


class GuestMemory:
    """The memory of a guest, by guest-physical address; it cannot have read-only memory written for it."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def read(self, gpa: int, bytes_: int) -> bytes:
        """Return bytes at a guest-physical address."""
        return self._domain.read(gpa, bytes_)

    def write(self, gpa: int, data: bytes) -> None:
        """Store bytes at a guest-physical address."""
        for gfn in range(gpa >> FRAME_SHIFT, (gpa + len(data) - 1 >> FRAME_SHIFT) + 1):
            if self._domain.p2m.get_entry(gfn).type not in _WRITABLE:
                raise PermissionFaultError("gpa", gfn << FRAME_SHIFT, 0, 0)
        self._domain.write(gpa, data)


@dataclass(frozen=True)
class Caller:
    """Who makes a hypercall.

    Parameters
    ----------
    memory : what its handles point into
    kind : "toolstack", "hardware", "passthrough" or "guest": its order limit and its rights
    domid : who it is itself; 0 for a toolstack outside the machine
    """

    memory: CallerMemory
    kind: str = "toolstack"
    domid: int = 0

    @classmethod
    def of_guest(cls, domain: Domain, kind: str = "guest") -> Self:
        """Return a guest that calls for itself."""
        return cls(GuestMemory(domain), kind, domain.domid)

    @property
    def is_control(self) -> bool:
        """Whether it may act on every domain."""
        return self.kind == "toolstack"

    @property
    def may_choose_node(self) -> bool:
        """Whether the node that it asks for counts."""
        return self.kind in {"toolstack", "hardware"}
