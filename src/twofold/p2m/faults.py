"""What hardware reports for an access that a P2M refuses: a nested page fault, an EPT violation, a misconfiguration."""

from twofold.formats import ept
from twofold.formats import npt as npt_format
from twofold.formats.geometry import TWO_LEVEL
from twofold.formats.status import NOT_PRESENT, OUTSIDE, RESERVED
from twofold.formats.table_formats import TableFormat
from twofold.p2m.results import Fault


def report(
    table_format: TableFormat, gpa: int, access: int, status: int, rights: int, *, in_walk: bool = False
) -> Fault:
    """Return how hardware reports an access that was refused.

    Parameters
    ----------
    access : 0 read, 1 write, 2 execute: what the program asked for
    status : how the walk ended, not OK
    rights : bits 2..0 of all entries of the path, and-ed
    in_walk : it was met while a guest table was being read, which counts as a write
    """
    malformed = status in {RESERVED, OUTSIDE}
    if table_format.name.startswith("ept"):
        if malformed:
            return Fault("misconfiguration", 0, gpa)
        return Fault("violation", ept.walk_qualification(rights) if in_walk else ept.qualification(access, rights), gpa)
    code = npt_format.fault_code(
        1 if in_walk else access,
        present=status != NOT_PRESENT,
        reserved=malformed,
        in_walk=in_walk,
        has_nx=table_format.geometry is not TWO_LEVEL,
    )
    return Fault("npf", code, gpa)
