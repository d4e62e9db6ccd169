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
    TOKEN f        bytes up to a blank or the end, at least one; f may ask for a letter, for a colon at their end, and
                   for a word of the table anywhere in them, whose code goes into register KIND
    CORE           such with a letter, a dot and a colon; the last number that ends a part of it into register VCPU
    TIME           digits, a point, and six or nine digits
    FIELD r        blanks and hexadecimal digits, in FIELD_BYTES columns, a blank or the end behind them
    ADDRESS r      a hexadecimal number that is no word, a blank or the end behind it
    CLEAR r        0 into register r
    COLUMN n       the pattern, or what is behind its MARK, began n bytes before this place
    SEEK           what follows may match here or anywhere behind, a TOKEN or a TIME where one begins; the first counts
    MARK           the pattern ends here, when all that follows matches

Numbers have at most 64 bits, and end before anything but a letter, a digit or an underscore. FIELD and ADDRESS read no
GVA below FIRST_ADDRESS. Nothing is tried twice but what follows a SEEK, and of several the last; where that begins with
a literal, a TOKEN or a TIME, a line costs little more than its length for each operation. A pattern that fails leaves
the registers as they were.

Arrays, of the columns in `formats.trace_program`:

text : uint8[bytes], with an incomplete line at its end, perhaps
program : int64[operations, 2]: operation, argument
patterns : int64[patterns, 4]: stage, first operation, what is emitted (a kind, MODIFY, BY_KIND or NOTHING), first
    pattern of the next stage
words : uint8[words, WORD_BYTES]: code, length, bytes
state : int64[SEEN + patterns], kept from call to call, but for POSITION
registers : uint64[REGISTERS], scratch
places : int64[PLACES], of a record; columns in `formats.champsim`
out_accesses : uint64[COLUMNS, room]: a row a column, in the order of the registers

Left out: which template belongs to which tool; that is in `trace.text_formats`.
"""

import re

import numpy as np

from twofold.formats.arrays import Bytes, Counts, Words
from twofold.formats.champsim import FIRST_LOAD, FIRST_STORE, LOADS_END, POINTER, RecordPlaces
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.formats.operands import LineProgram
from twofold.formats.trace_program import (
    ACCESSES,
    ADDRESS,
    ARGUMENT,
    BLANKS,
    BY_KIND,
    CLEAR,
    COLUMN,
    COLUMNS,
    CORE,
    DATA_SOURCE,
    DEC,
    EMITS,
    END,
    FETCHES,
    FIELD,
    FIELD_BYTES,
    FIND,
    FIRST,
    FIRST_ADDRESS,
    FRACTIONS,
    FULL,
    GVA,
    HAS_COLON,
    HAS_KIND,
    HAS_LETTER,
    HEX,
    ICOUNT,
    IS_LAST,
    KIND,
    KIND_WORD,
    LAST_STAGE,
    LENGTH,
    LINES,
    LITERAL,
    LONG_DIGITS,
    MARK,
    MODIFY,
    MORE,
    NEXT,
    NO_MATCH,
    NOTHING,
    OPERATION,
    PERF_EXECUTE,
    PERF_STORE,
    POSITION,
    REST,
    SEEK,
    SEEN,
    SHORT_LIMIT,
    STAGE,
    STOP,
    THREAD,
    TIME,
    TOKEN,
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
    first, at = 0, 0
    while first != LAST_STAGE:
        chosen, after = choose(line, at, first, program, registers)
        if after < 0:
            return NO_MATCH
        emits = int(program.patterns[chosen, EMITS])
        if emits != NOTHING and not emit(emits, state, registers, out_accesses):
            return FULL
        first, at = int(program.patterns[chosen, NEXT]), after
        state[SEEN + chosen] = state[SEEN + chosen] + 1 if first == LAST_STAGE else 1
    return MORE


def choose(line: Bytes, at: int, first: int, program: LineProgram, registers: Words) -> tuple[int, int]:
    """Return (pattern, where it ends) of the first pattern of a stage that matches; (0, -1) when none does."""
    stage = program.patterns[first, STAGE]
    for index in range(first, len(program.patterns)):
        own_stage, operation = program.patterns[index, [STAGE, FIRST]].tolist()
        after = match(line, at, program.operations[operation:], program.words, registers) if own_stage == stage else -1
        if after >= 0:
            return index, after
    return 0, -1


def match(line: Bytes, at: int, operations: Counts, words: Bytes, registers: Words) -> int:
    """Run a pattern on a line from `at`; return where it ends, -1 where it does not match."""
    before = registers.copy()
    start, operation, retry, begin, tried, mark = at, 0, 0, at, len(line), -1
    while True:
        code, argument = operations[operation].tolist()
        operation += 1
        if code in {END, STOP, REST}:
            if code != END or at == len(line):
                return mark if mark >= 0 else len(line) if code == REST else at
            at = -1
        elif code == SEEK:
            retry, begin, tried = operation, at, at
        elif code == MARK:
            mark = at
        elif code == COLUMN:
            at = at if at - (mark if mark >= 0 else start) == argument else -1
        elif code == FIND:
            wanted = bytes(operations[operation : operation + argument, ARGUMENT].astype(np.uint8))
            found = bytes(line).find(wanted, at)
            at, operation = (found + argument if found >= 0 else -1), operation + argument
        else:
            at = _step(line, at, (code, argument), words, registers)
        if at < 0 and tried >= len(line):
            registers[:] = before
            return -1
        if at < 0:  # once more, further on
            tried = _next_try(line, tried + 1, operations[retry:], begin)
            at, operation, mark = tried, retry, -1


def _next_try(line: Bytes, at: int, operations: Counts, begin: int) -> int:
    """Return the first place from `at` on where a token or a time may begin, if one follows a SEEK at `begin`."""
    codes = [code for code in operations[:2, OPERATION].tolist() if code != MARK]
    inside = {TOKEN: rb"[^ \t]", TIME: rb"[0-9]"}.get(codes[0])
    while inside is not None and begin < at < len(line) and re.fullmatch(inside, bytes(line[at - 1 : at]), re.DOTALL):
        at += 1
    return at


def _step(line: Bytes, at: int, operation: tuple[int, int], words: Bytes, registers: Words) -> int:
    """Take one operation that stands for bytes; return where they end, -1 where they are others."""
    code, argument = operation
    if code == LITERAL:
        return at + 1 if at < len(line) and line[at] == argument else -1
    if code == BLANKS:
        return len(line) - len(bytes(line[at:]).lstrip(b" \t"))
    if code == KIND_WORD:
        return _read_kind(line, at, words, registers)
    if code == TOKEN:
        return _read_token(line, at, argument, words, registers)
    if code == CORE:
        return _read_core(line, at, registers)
    if code == TIME:
        found = re.match(rb"[0-9]+\.([0-9]+)", bytes(line[at:]))
        return at + found.end() if found and len(found[1]) in FRACTIONS else -1
    if code in {FIELD, ADDRESS}:
        return _read_address(line, at, code, argument, registers)
    if code == CLEAR:
        registers[argument] = 0
        return at
    return _read_number(line, at, code, argument, registers)


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


def unpack_champsim(records: Words, places: RecordPlaces, first_icount: np.uint64, out_accesses: Words) -> int:
    """Write the accesses of ChampSim's records: the fetch, then the loads, then the stores of each instruction.

    Parameters
    ----------
    records : uint64[instructions, words]; an address of 0 stands for no access
    first_icount : instruction count of the first record
    out_accesses : uint64[3, room for all]: gvas, instruction counts, kinds

    Returns
    -------
    accesses : how many were written
    """
    first_store, first_load, loads_end = places[FIRST_STORE], places[FIRST_LOAD], places[LOADS_END]
    accesses = 0
    for index, record in enumerate(records.tolist()):
        stores, loads = record[first_store:first_load], record[first_load:loads_end]
        fetch = (record[POINTER], FETCH)
        made = [fetch, *((gva, LOAD) for gva in loads if gva), *((gva, STORE) for gva in stores if gva)]
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


def _read_token(line: Bytes, at: int, wants: int, words: Bytes, registers: Words) -> int:
    """Read what holds no blank; return where it ends, -1 when it is not what is asked for."""
    token = _token(line, at)
    is_named = _has_letter(token) or not wants & HAS_LETTER
    if not token or not is_named or (wants & HAS_COLON and not token.endswith(b":")):
        return -1
    if wants & HAS_KIND:
        rows = ((bytes(word[WORD_TEXT : WORD_TEXT + int(word[WORD_LENGTH])]), word[WORD_CODE]) for word in words)
        kinds = [kind for text, kind in rows if text in token]
        if not kinds:
            return -1
        registers[KIND] = kinds[0]
    return at + len(token)


def _read_core(line: Bytes, at: int, registers: Words) -> int:
    """Read the path of a gem5 object, the last number that ends a part of it into VCPU; return where it ends, or -1."""
    token = _token(line, at)
    if not _has_letter(token) or not token.endswith(b":") or b"." not in token:
        return -1
    numbers = re.findall(rb"([0-9]+)(?=[.:])", token)
    vcpu = int(numbers[-1]) if numbers else 0
    if any(int(number) >= SHORT_LIMIT for number in numbers):
        return -1
    registers[VCPU] = vcpu
    return at + len(token)


def _token(line: Bytes, at: int) -> bytes:
    """Return the bytes up to the next blank, or the end."""
    return re.split(rb"[ \t]", bytes(line[at:]), maxsplit=1)[0]


def _has_letter(token: bytes) -> bool:
    """Return whether a letter is in a token."""
    return re.search(rb"[A-Za-z]", token) is not None


def _read_address(line: Bytes, at: int, code: int, register: int, registers: Words) -> int:
    """Read a hexadecimal number in its columns, or one that is no word; return where it ends, or -1."""
    text = bytes(line[at:])
    if code == FIELD:
        found = re.match(rb" *([0-9A-Fa-f]+)(?=[ \t]|\Z)", text)
        fits = found is not None and found.end() == FIELD_BYTES
    else:
        found = re.match(rb"([0-9A-Fa-f]+)(?=[ \t]|\Z)", text)
        fits = found is not None and (found[1][:1].isdigit() or len(found[1]) >= LONG_DIGITS)
    if found is None or not fits or int(found[1], 16) >= 1 << 64:
        return -1
    number = int(found[1], 16)
    if register == GVA and number < FIRST_ADDRESS:
        return -1
    registers[register] = number
    return at + found.end()


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
