"""What a walk or an update can end in: the codes that both twins return instead of raising."""

from typing import Final

OK: Final = 0
NOT_PRESENT: Final = 1  # a hole: the entry is not present
RESERVED: Final = 2  # a reserved bit is set
OUTSIDE: Final = 3  # the entry points outside the machine
FORBIDDEN: Final = 4  # the entry does not allow the access
NO_TABLES: Final = 5  # the pool has too few table frames; nothing was changed
UNENCODABLE: Final = 6  # an entry could not hold its frame; nothing was changed
