"""Programs that read lines of text: their operations, the columns of their arrays, and how a call of them ends.

`spec.traces` explains what each operation does, `trace.templates` compiles such programs.

program : int64[operations, 2];  patterns : int64[patterns, 4];  words : uint8[words, WORD_BYTES]
state : int64[SEEN + patterns];  registers : uint64[REGISTERS], of which the first COLUMNS are those of an access, and
    those from SAVED on what the others are when no pattern is tried
"""

from typing import Final

# Columns of `program`, and its operations.
OPERATION: Final = 0
ARGUMENT: Final = 1

LITERAL: Final = 0
BLANKS: Final = 1
FIND: Final = 2
REST: Final = 3
END: Final = 4
STOP: Final = 5
HEX: Final = 6
DEC: Final = 7
NUMBER: Final = 8
KIND_WORD: Final = 9
DATA_SOURCE: Final = 10
SEEK: Final = 11
MARK: Final = 12
TOKEN: Final = 13
TIME: Final = 14
FIELD: Final = 15
ADDRESS: Final = 16
CLEAR: Final = 17
CORE: Final = 18
COLUMN: Final = 19

# What TOKEN may ask for, added up.
HAS_LETTER: Final = 1
HAS_KIND: Final = 2  # a word of the table is in it
HAS_COLON: Final = 4  # at its end

# Columns of `patterns`. What one emits is a kind of access, or one of the three below.
STAGE: Final = 0
FIRST: Final = 1  # operation
EMITS: Final = 2
NEXT: Final = 3  # pattern, the first of a stage
MODIFY: Final = 3  # emits a load, then a store
BY_KIND: Final = 4  # emits what register KIND says
NOTHING: Final = -1
LAST_STAGE: Final = -1  # the line is done

# Columns of `words`.
WORD_CODE: Final = 0
WORD_LENGTH: Final = 1
WORD_TEXT: Final = 2
WORD_BYTES: Final = 24

# Registers.
GVA: Final = 0
ICOUNT: Final = 1
LENGTH: Final = 2
VCPU: Final = 3
KIND: Final = 4
COLUMNS: Final = 5
THREAD: Final = 5  # a number of any size in the column of the vCPU
DROPPED: Final = 6
SAVED: Final = 7  # from here on
REGISTERS: Final = 2 * SAVED
SHORT_LIMIT: Final = 1 << 16  # of lengths and vCPUs

# Columns of `state`.
POSITION: Final = 0  # in the text, of the first byte that is not done with
ACCESSES: Final = 1  # in out_accesses
LINES: Final = 2  # done with, ever
FETCHES: Final = 3  # emitted, ever: the instruction count where a line says none
IS_LAST: Final = 4  # 1: no text follows, so the last line may lack its end
SEEN: Final = 5  # from here on, for each pattern: lines that it ended; 1 when others went on behind it

# Columns of text, and what they may hold. Source: Linux, tools/perf/builtin-script.c, "%16" PRIx64 and "%06" or "%09".
FIELD_BYTES: Final = 16
LONG_DIGITS: Final = 9  # of a hexadecimal number that no word is mistaken for: "deadbeef" has eight
FRACTIONS: Final = (6, 9)  # digits of a second
FIRST_ADDRESS: Final = 4096  # perf writes 0 where a sample has no address, and nothing is mapped in the first page

# How a call ends.
MORE: Final = 0
FULL: Final = 1
NO_MATCH: Final = 2

# Bits of perf_mem_data_src.mem_op. Source: Linux, include/uapi/linux/perf_event.h.
PERF_STORE: Final = 4
PERF_EXECUTE: Final = 16
