"""Programs that read lines of text: their operations, the columns of their arrays, and how a call of them ends.

`spec.traces` explains what each operation does, `trace.templates` compiles such programs.

program : int64[operations, 2];  patterns : int64[patterns, 4];  words : uint8[words, WORD_BYTES]
state : int64[SEEN + patterns];  registers : uint64[REGISTERS], of which the first COLUMNS are those of an access
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

# Columns of `patterns`. What one emits is a kind of access, or one of the three below.
STAGE: Final = 0
FIRST: Final = 1  # operation
EMITS: Final = 2
NEXT: Final = 3  # stage
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
REGISTERS: Final = 7
SHORT_LIMIT: Final = 1 << 16  # of lengths and vCPUs

# Columns of `state`.
POSITION: Final = 0  # in the text, of the first byte that is not done with
ACCESSES: Final = 1  # in out_accesses
LINES: Final = 2  # done with, ever
FETCHES: Final = 3  # emitted, ever: the instruction count where a line says none
IS_LAST: Final = 4  # 1: no text follows, so the last line may lack its end
SEEN: Final = 5  # from here on: 1 for each pattern that has matched

# How a call ends.
MORE: Final = 0
FULL: Final = 1
NO_MATCH: Final = 2

# Bits of perf_mem_data_src.mem_op. Source: Linux, include/uapi/linux/perf_event.h.
PERF_STORE: Final = 4
PERF_EXECUTE: Final = 16
