"""ChampSim's record of an instruction, in words of 64 bits.

      0         1                2       3        4       5       6       7
    +---------+----------------+-------+--------+-------+-------+-------+-------+
    | pointer | branch, regs.  |    two stores  |            four loads         |
    +---------+----------------+-------+--------+-------+-------+-------+-------+

An address of 0 stands for no access. Source: ChampSim, inc/trace_instruction.h, `input_instr`.
"""

from typing import Final

FIRST_STORE: Final = 2
FIRST_LOAD: Final = 4
RECORD_WORDS: Final = 8
RECORD_ACCESSES: Final = 1 + RECORD_WORDS - FIRST_STORE  # at most: the fetch, the stores, the loads
