"""What a walk is asked, and the columns of its steps: uint64[MAX_STEPS, STEP_COLUMNS], one row a table read."""

from typing import Final

# What an access asks of every entry of its path; `shape.NEED` and `shape.DENY` have a column for each.
READ: Final = 0
WRITE: Final = 1
EXECUTE: Final = 2

# Columns of a step; the top bit of no address is lost, so all are uint64.
GUEST: Final = 0  # 1: an entry of the guest's tables, 0: of the P2M
FOR_LEVEL: Final = 1  # the guest level that this step serves; DATA for the last nested walk
LEVEL: Final = 2
TABLE: Final = 3  # mfn of the table read
SLOT: Final = 4
ENTRY: Final = 5
STEP_COLUMNS: Final = 6

MAX_STEPS: Final = 35  # five levels on both sides
DATA: Final = 9
EPT_RIGHTS: Final = 7  # bits 2..0 of an EPT entry: what a walk's entries allow, and-ed
