"""Kinds of access that a program makes, as traces store them and the MMU model takes them.

What an access asks of the tables, its rights, is in `formats.walk_state`, under the same numbers.
"""

from typing import Final

LOAD: Final = 0
STORE: Final = 1
FETCH: Final = 2
