"""Reading traces of other tools: lines of text by templates, and ChampSim's records.

Scanning lines. A text is cut into lines. Each line goes through *stages*: in a stage its patterns are tried in order
where the stage before ended; the first that matches may emit an access, and names the next stage. A pattern is a run of
operations over the bytes of the line:

    LITERAL c      this byte
    BLANKS         any number of blanks and tabs
    FIND n         go on behind the first place where the next n operations, all literals, match
    REST           the rest of the line, whatever it is
    END            nothing may follow;  STOP: the pattern ends here, and another stage goes on
    HEX r, DEC r   a number into register r, of 16 bits for LENGTH and VCPU; hexadecimal ones may begin with 0x
    NUMBER r       either: hexadecimal when it begins with 0x
    KIND           a word of the table, its code into register KIND
    DATA_SOURCE    a hexadecimal perf_mem_data_src, what it says of the operation into register KIND

Numbers have at most 64 bits, and end before anything but a letter, a digit or an underscore. Nothing is tried twice:
there is no backtracking, so a line costs at most its length for each operation.

Arrays, of the columns in `formats.trace_program`:

text : uint8[bytes], with an incomplete line at its end, perhaps
program : int64[operations, 2]: operation, argument
patterns : int64[patterns, 4]: stage, first operation, what is emitted (a kind, MODIFY, BY_KIND or NOTHING), next stage
words : uint8[words, WORD_BYTES]: code, length, bytes
state : int64[SEEN + patterns], kept from call to call, but for POSITION
registers : uint64[REGISTERS], scratch
out_accesses : uint64[COLUMNS, room]: a row a column, in the order of the registers

Left out: which template belongs to which tool; that is in `trace.text_formats`.
"""

import numpy as np

from twofold.formats.arrays import Bytes, Counts, Words
from twofold.formats.champsim import FIRST_LOAD, FIRST_STORE, RECORD_WORDS
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.formats.operands import LineProgram
from twofold.formats.trace_program import (
    ACCESSES,
    ARGUMENT,
    BLANKS,
    BY_KIND,
    COLUMNS,
    DATA_SOURCE,
    DEC,
    EMITS,
    END,
    FETCHES,
    FIND,
    FULL,
    HEX,
    ICOUNT,
    IS_LAST,
    KIND,
    KIND_WORD,
    LAST_STAGE,
    LENGTH,
    LINES,
    LITERAL,
    MODIFY,
    MORE,
    NEXT,
    NO_MATCH,
    NOTHING,
    PERF_EXECUTE,
    PERF_STORE,
    POSITION,
    REST,
    SEEN,
    SHORT_LIMIT,
    STOP,
    THREAD,
    VCPU,
    WORD_CODE,
    WORD_LENGTH,
    WORD_TEXT,
)


def scan_lines(text: Bytes, program: LineProgram, state: Counts, registers: Words, out_accesses: Words) -> int:
    """Emit the accesses of the lines of a text.

    Returns
    -------
    status : MORE, the text is used up but for an incomplete line; FULL, no room for the accesses of the next line;
        NO_MATCH, the line at POSITION matches no pattern. POSITION is always the start of a line.
    """
    while True:
        start = int(state[POSITION])
        end = _end_of_line(text, start)
        if end == len(text) and (start == end or not state[IS_LAST]):
            return MORE
        before = (int(state[ACCESSES]), int(state[FETCHES]))
        stop = end - (end > start and text[end - 1] == ord("\r"))
        status = scan_line(text[start:stop], program, state, registers, out_accesses)
        if status != MORE:
            state[ACCESSES], state[FETCHES] = before
            return status
        state[LINES] += 1
        state[POSITION] = min(end + 1, len(text))


def scan_line(line: Bytes, program: LineProgram, state: Counts, registers: Words, out_accesses: Words) -> int:
    """Take one line through its stages; return MORE when it is done, else FULL or NO_MATCH."""
    registers[:] = 0
    stage, at = 0, 0
    while stage != LAST_STAGE:
        chosen, after = choose(line, at, stage, program, registers)
        if after < 0:
            return NO_MATCH
        state[SEEN + chosen] = 1
        emits = int(program.patterns[chosen, EMITS])
        if emits != NOTHING and not emit(emits, state, registers, out_accesses):
            return FULL
        stage, at = int(program.patterns[chosen, NEXT]), after
    return MORE


def choose(line: Bytes, at: int, stage: int, program: LineProgram, registers: Words) -> tuple[int, int]:
    """Return (pattern, where it ends) of the first pattern of a stage that matches; (0, -1) when none does."""
    for index, (own_stage, first, _, _) in enumerate(program.patterns.tolist()):
        after = match(line, at, program.operations[first:], program.words, registers) if own_stage == stage else -1
        if after >= 0:
            return index, after
    return 0, -1


def match(line: Bytes, at: int, operations: Counts, words: Bytes, registers: Words) -> int:
    """Run a pattern on a line from `at`; return where it ends, -1 where it does not match."""
    operation = 0
    while True:
        code, argument = operations[operation].tolist()
        operation += 1
        if code == END:
            return at if at == len(line) else -1
        if code == STOP:
            return at
        if code == REST:
            return len(line)
        if code == BLANKS:
            at += len(bytes(line[at:])) - len(bytes(line[at:]).lstrip(b" \t"))
        elif code == LITERAL:
            if at == len(line) or line[at] != argument:
                return -1
            at += 1
        elif code == FIND:
            wanted = bytes(operations[operation : operation + argument, ARGUMENT].astype(np.uint8))
            found = bytes(line).find(wanted, at)
            if found < 0:
                return -1
            at, operation = found + argument, operation + argument
        elif code == KIND_WORD:
            at = _read_kind(line, at, words, registers)
        else:
            at = _read_number(line, at, code, argument, registers)
        if at < 0:
            return -1


def emit(emits: int, state: Counts, registers: Words, out_accesses: Words) -> bool:
    """Write the access that the registers hold; False when there is no room for it."""
    if state[ACCESSES] + 2 > out_accesses.shape[1]:
        return False
    kind = int(registers[KIND]) if emits == BY_KIND else emits
    state[FETCHES] += kind == FETCH
    row = registers[:COLUMNS].copy()
    if not row[ICOUNT]:
        row[ICOUNT] = state[FETCHES]
    for each in (LOAD, STORE) if kind == MODIFY else (kind,):
        row[KIND] = each
        out_accesses[:, state[ACCESSES]] = row
        state[ACCESSES] += 1
    return True


def unpack_champsim(records: Words, first_icount: np.uint64, out_accesses: Words) -> int:
    """Write the accesses of ChampSim's records: the fetch, then the loads, then the stores of each instruction.

    Parameters
    ----------
    records : uint64[instructions, RECORD_WORDS]; an address of 0 stands for no access
    first_icount : instruction count of the first record
    out_accesses : uint64[3, 7 * instructions]: gvas, instruction counts, kinds

    Returns
    -------
    accesses : how many were written
    """
    accesses = 0
    for index, record in enumerate(records.tolist()):
        stores, loads = record[FIRST_STORE:FIRST_LOAD], record[FIRST_LOAD:RECORD_WORDS]
        made = [(record[0], FETCH), *((gva, LOAD) for gva in loads if gva), *((gva, STORE) for gva in stores if gva)]
        for gva, kind in made:
            out_accesses[:, accesses] = gva, int(first_icount) + index, kind
            accesses += 1
    return accesses


def _end_of_line(text: Bytes, start: int) -> int:
    """Return the place of the next newline, or the end of the text."""
    newlines = np.flatnonzero(text[start:] == ord("\n"))
    return start + int(newlines[0]) if len(newlines) else len(text)


def _read_kind(line: Bytes, at: int, words: Bytes, registers: Words) -> int:
    """Read a word of the table; return where it ends, -1 when it is none."""
    text = bytes(line[at:])
    for word in words:
        length = int(word[WORD_LENGTH])
        known = bytes(word[WORD_TEXT : WORD_TEXT + length])
        if text.startswith(known) and not _is_word(text[length : length + 1]):
            registers[KIND] = word[WORD_CODE]
            return at + length
    return -1


def _read_number(line: Bytes, at: int, code: int, register: int, registers: Words) -> int:
    """Read a number into a register; return where it ends, -1 when there is none of 64 bits."""
    text = bytes(line[at:])
    prefixed = text[:2] in {b"0x", b"0X"} and code != DEC
    base = 16 if code in {HEX, DATA_SOURCE} or prefixed else 10
    digits = b"0123456789abcdefABCDEF" if base == 16 else b"0123456789"
    start = end = 2 if prefixed else 0
    while end < len(text) and text[end] in digits:
        end += 1
    if end == start or _is_word(text[end : end + 1]):
        return -1
    number = int(text[start:end], base)
    if number >= (SHORT_LIMIT if register in {LENGTH, VCPU} else 1 << 64):
        return -1
    if code == DATA_SOURCE:
        number = STORE if number & PERF_STORE else FETCH if number & PERF_EXECUTE else LOAD
        register = KIND
    registers[VCPU if register == THREAD else register] = number
    return at + end


def _is_word(char: bytes) -> bool:
    """Return whether a byte goes on with a word: a letter, a digit or an underscore; not the end of the line."""
    return char.isalnum() or char == b"_"
