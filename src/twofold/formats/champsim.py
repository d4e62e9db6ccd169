"""ChampSim's records of an instruction, in words of 64 bits: three layouts, told apart by their length.

    word      0         1                2 ..                                                       last
            +---------+----------------+--------------------+---------------+
    64      | pointer | branch, regs.  | two stores         | four loads    |
    72      | pointer | branch, regs.  | two stores         | four loads    | type of the load        |
    96      | pointer | branch, regs.  | regs. | four stores| four loads    | address space, and type |
            +---------+----------------+--------------------+---------------+

Byte 8 says whether it is a branch, byte 9 whether that was taken, 0 or 1 each. An address of 0 stands for no access.
Source: ChampSim, inc/trace_instruction.h, `input_instr`, without and with `load_type`, and `cloudsuite_instr`.
"""

from dataclasses import dataclass
from typing import Final

from twofold.formats.arrays import Counts

POINTER: Final = 0  # word
IS_BRANCH: Final = 8  # byte
IS_TAKEN: Final = 9  # byte
TYPE_LIMIT: Final = 1 << 8  # of a load's type, in a word of its own

# Columns of the places of a layout's accesses; the loads end where they say.
FIRST_STORE: Final = 0
FIRST_LOAD: Final = 1
LOADS_END: Final = 2
PLACES: Final = 3


@dataclass(frozen=True)
class RecordLayout:
    """Where the accesses of a record stand.

    Parameters
    ----------
    name : for --from
    title : what such a record is called in a message
    words : of a record
    stores, loads : first word and number of each
    limits : {word: what it is below}, of words that hold no address
    """

    name: str
    title: str
    words: int
    stores: tuple[int, int]
    loads: tuple[int, int]
    limits: tuple[tuple[int, int], ...] = ()

    @property
    def bytes_(self) -> int:
        """The length of a record [bytes]."""
        return 8 * self.words

    @property
    def accesses(self) -> int:
        """The most accesses that a record can have: the fetch, the stores, the loads."""
        return 1 + self.stores[1] + self.loads[1]

    @property
    def places(self) -> tuple[int, int, int]:
        """The words of FIRST_STORE, FIRST_LOAD and LOADS_END."""
        return self.stores[0], self.loads[0], sum(self.loads)


INPUT: Final = RecordLayout("champsim", "ChampSim", 8, (2, 2), (4, 4))
LOAD_TYPE: Final = RecordLayout(
    "champsim-load-type", "ChampSim with a load type", 9, (2, 2), (4, 4), ((8, TYPE_LIMIT),)
)
# Registers end in the first two bytes of word 2, and what is left of it is padding.
CLOUDSUITE: Final = RecordLayout("champsim-cloudsuite", "CloudSuite", 12, (3, 4), (7, 4), ((2, 1 << 16),))
LAYOUTS: Final = {each.name: each for each in (INPUT, LOAD_TYPE, CLOUDSUITE)}

RecordPlaces = Counts  # int64[PLACES]
