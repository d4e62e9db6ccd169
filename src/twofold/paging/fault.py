"""Faults: an access that the tables refuse, by whom, and how hardware reports it."""

from dataclasses import dataclass
from typing import Final

from twofold.formats.status import FORBIDDEN, NOT_PRESENT, OUTSIDE, RESERVED

ACCESSES: Final = ("read", "write", "execute")
_VERBS: Final = {"read": "read", "write": "wrote", "execute": "executed"}
_WORDS: Final = {
    NOT_PRESENT: "which is not mapped",
    FORBIDDEN: "which is forbidden",
    RESERVED: "through an entry with reserved bits set",
    OUTSIDE: "through an entry that points outside the machine",
}


@dataclass(frozen=True)
class AccessFault:
    """One access of a guest that did not go through.

    Parameters
    ----------
    access : "read", "write" or "execute"
    gva : what the guest accessed [byte address]; None where it does not page
    gpa : what the P2M refuses, the data or a guest table [byte address]; None where the guest's own tables refuse
    status : how the walk ended, a code of `formats.status`
    kind : "npf", "violation" or "misconfiguration", met by the hypervisor; "page fault" or "general protection", the
        guest's own; "refused store", when somebody who watches the frame does not let it happen
    code : EXITINFO1, the exit qualification, or the guest's error code
    in_walk : it was met while a guest table was being read, which counts as a write
    level, entry : of the last table read; -1 and 0 where none was
    reason : why a resolver refused it, or could not mend it; empty when none did
    """

    access: str
    gva: int | None
    gpa: int | None
    status: int
    kind: str
    code: int
    in_walk: bool = False
    level: int = -1
    entry: int = 0
    reason: str = ""

    @property
    def is_guests(self) -> bool:
        """Whether it belongs to the guest: the hypervisor never sees it, and resolves nothing."""
        return self.gpa is None

    def __str__(self) -> str:
        where = f"gpa {self.gpa:#x}" if self.gva is None else f"gva {self.gva:#x}"
        said = f"it {_VERBS[self.access]} {where}, "
        if self.kind == "general protection":
            return said + "which is no address of 48 bits"
        if self.kind == "refused store":
            return said + f"and {self.reason}"
        by = "guest's tables" if self.is_guests else "P2M"
        because = f": {self.reason}" if self.reason else ""
        return f"{said}{_WORDS[self.status]} (in the {by}){because}"
