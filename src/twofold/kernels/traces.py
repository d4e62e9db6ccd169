"""Traces of other tools, fast: lines by templates, ChampSim's records. Twin of `spec.traces`, which explains them."""

from typing import Final

import numpy as np

from twofold.formats import trace_program
from twofold.formats.arrays import Bytes, Counts, Words
from twofold.formats.champsim import FIRST_LOAD, FIRST_STORE, LOADS_END, POINTER, RecordPlaces
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.formats.operands import LineProgram
from twofold.formats.trace_program import (
    ACCESSES,
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
    NUMBER,
    OPERATION,
    POSITION,
    REST,
    SAVED,
    SEEK,
    SEEN,
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
from twofold.kernels._jit import folded, inner, kernel

ZERO, ONE, FOUR, TEN = np.uint64(0), np.uint64(1), np.uint64(4), np.uint64(10)
PERF_STORE, PERF_EXECUTE = np.uint64(trace_program.PERF_STORE), np.uint64(trace_program.PERF_EXECUTE)
TOP_DIGIT: Final = np.uint64(2**60)  # from here on a hexadecimal digit more does not fit 64 bits
TOP_TEN: Final = np.uint64((2**64 - 1) // 10)
NO_DIGIT: Final = np.uint64(16)
SHORT_LIMIT: Final = np.uint64(trace_program.SHORT_LIMIT)
FIRST_ADDRESS: Final = np.uint64(trace_program.FIRST_ADDRESS)
MICROSECONDS, NANOSECONDS = FRACTIONS

NEWLINE, RETURN, BLANK, TAB = ord("\n"), ord("\r"), ord(" "), ord("\t")
NINE, SMALL_A, SMALL_F, LARGE_A, LARGE_F = ord("9"), ord("a"), ord("f"), ord("A"), ord("F")
NOUGHT, SMALL_X, LARGE_X, SMALL_Z, LARGE_Z, UNDERSCORE = ord("0"), ord("x"), ord("X"), ord("z"), ord("Z"), ord("_")
POINT, COLON = ord("."), ord(":")


@folded
def is_word(char: int) -> bool:
    """Return whether a byte goes on with a word: a letter, a digit or an underscore."""
    return NOUGHT <= char <= NINE or SMALL_A <= char <= SMALL_Z or LARGE_A <= char <= LARGE_Z or char == UNDERSCORE


@folded
def digit_of(char: int) -> np.uint64:
    """Return what a hexadecimal digit stands for, NO_DIGIT for another byte."""
    if NOUGHT <= char <= NINE:
        return np.uint64(char - NOUGHT)
    if SMALL_A <= char <= SMALL_F:
        return np.uint64(char - SMALL_A) + TEN
    if LARGE_A <= char <= LARGE_F:
        return np.uint64(char - LARGE_A) + TEN
    return NO_DIGIT


@inner
def read_number(text: Bytes, at: int, stop: int, code: int, register: int, registers: Words) -> int:
    """Read a number into a register; return where it ends, -1 when there is none of 64 bits."""
    is_hex = code in (HEX, DATA_SOURCE)
    if code != DEC and stop - at >= 2 and text[at] == NOUGHT and (text[at + 1] == SMALL_X or text[at + 1] == LARGE_X):
        is_hex = True
        at += 2
    start, number = at, ZERO
    while at < stop:
        digit = digit_of(text[at])
        if digit >= (NO_DIGIT if is_hex else TEN):
            break
        if is_hex:
            if number >= TOP_DIGIT:
                return -1
            number = number << FOUR | digit
        else:
            if number > TOP_TEN or (number == TOP_TEN and digit > np.uint64(5)):  # 2**64 - 1 ends in 5
                return -1
            number = number * TEN + digit
        at += 1
    if at == start or (at < stop and is_word(text[at])):
        return -1
    if code == DATA_SOURCE:
        registers[KIND] = STORE if number & PERF_STORE else FETCH if number & PERF_EXECUTE else LOAD
    elif register == THREAD:
        registers[VCPU] = number
    elif number >= SHORT_LIMIT and register in (LENGTH, VCPU):
        return -1
    else:
        registers[register] = number
    return at


@inner
def read_kind(text: Bytes, at: int, stop: int, words: Bytes, registers: Words) -> int:
    """Read a word of the table; return where it ends, -1 when it is none."""
    for row in range(len(words)):
        length = int(words[row, WORD_LENGTH])
        if stop - at < length:
            continue
        same = 0
        while same < length and text[at + same] == words[row, WORD_TEXT + same]:
            same += 1
        if same == length and not (at + length < stop and is_word(text[at + length])):
            registers[KIND] = np.uint64(words[row, WORD_CODE])
            return at + length
    return -1


@inner
def find(text: Bytes, at: int, stop: int, operations: Counts, first: int, length: int) -> int:
    """Return the end of the first place where some literals stand, -1 when they do not."""
    begin = operations[first, ARGUMENT]
    while at + length <= stop:
        if text[at] == begin:
            same = 1
            while same < length and text[at + same] == operations[first + same, ARGUMENT]:
                same += 1
            if same == length:
                return at + length
        at += 1
    return -1


@folded
def is_blank(char: int) -> bool:
    """Return whether a byte is a blank or a tab."""
    return char in (BLANK, TAB)


@inner
def has_letter(text: Bytes, at: int, stop: int) -> bool:
    """Return whether a letter is in a token."""
    for place in range(at, stop):
        char = text[place]
        if SMALL_A <= char <= SMALL_Z or LARGE_A <= char <= LARGE_Z:
            return True
    return False


@inner
def end_of_token(text: Bytes, at: int, stop: int) -> int:
    """Return the place of the next blank, or the end."""
    while at < stop and not is_blank(text[at]):
        at += 1
    return at


@inner
def read_token(text: Bytes, at: int, stop: int, wants: int, words: Bytes, registers: Words) -> int:
    """Read what holds no blank; return where it ends, -1 when it is not what is asked for."""
    end = end_of_token(text, at, stop)
    if end == at or (wants & HAS_COLON and text[end - 1] != COLON):
        return -1
    if wants & HAS_LETTER and not has_letter(text, at, end):
        return -1
    if not wants & HAS_KIND:
        return end
    for row in range(len(words)):
        length = int(words[row, WORD_LENGTH])
        for place in range(at, end - length + 1):
            same = 0
            while same < length and text[place + same] == words[row, WORD_TEXT + same]:
                same += 1
            if same == length:
                registers[KIND] = np.uint64(words[row, WORD_CODE])
                return end
    return -1


@inner
def read_core(text: Bytes, at: int, stop: int, registers: Words) -> int:
    """Read the path of a gem5 object, the last number that ends a part of it into VCPU; return where it ends, or -1."""
    end = end_of_token(text, at, stop)
    if end == at or text[end - 1] != COLON or not has_letter(text, at, end):
        return -1
    vcpu, number, digits, points = ZERO, ZERO, 0, 0
    for place in range(at, end):
        char = text[place]
        points += char == POINT
        if NOUGHT <= char <= NINE:
            number = min(number * TEN + np.uint64(char - NOUGHT), SHORT_LIMIT) if digits else np.uint64(char - NOUGHT)
            digits += 1
            continue
        if digits and char in (POINT, COLON):
            vcpu = number
            if number >= SHORT_LIMIT:
                return -1
        digits = 0
    if points == 0:
        return -1
    registers[VCPU] = vcpu
    return end


@inner
def read_time(text: Bytes, at: int, stop: int) -> int:
    """Read seconds and a fraction of six or nine digits; return where they end, -1 when they are none."""
    start = at
    while at < stop and NOUGHT <= text[at] <= NINE:
        at += 1
    if at in (start, stop) or text[at] != POINT:
        return -1
    start = at + 1
    at = start
    while at < stop and NOUGHT <= text[at] <= NINE:
        at += 1
    return at if at - start in (MICROSECONDS, NANOSECONDS) else -1


@inner
def read_address(text: Bytes, at: int, stop: int, code: int, register: int, registers: Words) -> int:
    """Read a hexadecimal number in its columns, or one that is no word; return where it ends, or -1."""
    start = at
    if code == FIELD:
        while start < stop and text[start] == BLANK:
            start += 1
    end, number = start, ZERO
    while end < stop and digit_of(text[end]) < NO_DIGIT:
        if number >= TOP_DIGIT:
            return -1
        number = number << FOUR | digit_of(text[end])
        end += 1
    if end == start or (end < stop and not is_blank(text[end])):
        return -1
    is_no_word = text[start] <= NINE or end - start >= LONG_DIGITS  # digits are less than letters
    fits = end - at == FIELD_BYTES if code == FIELD else is_no_word
    if not fits or (register == GVA and number < FIRST_ADDRESS):
        return -1
    registers[register] = number
    return end


@inner
def read(text: Bytes, at: int, stop: int, code: int, argument: int, words: Bytes, registers: Words) -> int:
    """Take an operation that may fill a register; return where what it stands for ends, or -1."""
    if code <= NUMBER or code == DATA_SOURCE:  # the frequent ones
        return read_number(text, at, stop, code, argument, registers)
    if code == KIND_WORD:
        return read_kind(text, at, stop, words, registers)
    if code == TOKEN:
        return read_token(text, at, stop, argument, words, registers)
    if code == CORE:
        return read_core(text, at, stop, registers)
    if code == CLEAR:
        registers[argument] = ZERO
        return at
    return read_address(text, at, stop, code, argument, registers)


@folded
def may_match(text: Bytes, at: int, stop: int, operations: Counts, operation: int) -> bool:
    """Return whether the first operation of a pattern does not rule it out: most fail at their first byte."""
    return operations[operation, OPERATION] != LITERAL or (at < stop and text[at] == operations[operation, ARGUMENT])


@inner
def next_try(text: Bytes, at: int, stop: int, operations: Counts, operation: int, begin: int) -> int:
    """Return the first place from `at` on where what follows a SEEK at `begin` may match; the end if nowhere."""
    if operations[operation, OPERATION] == MARK:
        operation += 1
    code, wanted = operations[operation, OPERATION], operations[operation, ARGUMENT]
    if code == LITERAL:
        while at < stop and text[at] != wanted:
            at += 1
    elif code == TOKEN:  # tried where one begins, so that a line costs its length
        while begin < at < stop and not is_blank(text[at - 1]):
            at += 1
    elif code == TIME:
        while begin < at < stop and NOUGHT <= text[at - 1] <= NINE:
            at += 1
    return at


@inner
def match(text: Bytes, at: int, stop: int, operations: Counts, operation: int, words: Bytes, registers: Words) -> int:
    """Run a pattern on a line from `at` to `stop`; return where it ends, -1 where it does not match."""
    start, retry, begin, tried, mark, is_changed = at, 0, at, stop, -1, False
    while True:
        code, argument = operations[operation, OPERATION], operations[operation, ARGUMENT]
        operation += 1
        if code == LITERAL:
            if at < stop and text[at] == argument:
                at += 1
                continue
            at = -1
        elif code == END:
            if at == stop:
                break
            at = -1
        elif code == STOP:
            break
        elif code == REST:
            at = stop
            break
        elif code == BLANKS:
            while at < stop and is_blank(text[at]):
                at += 1
        elif code == FIND:
            at = find(text, at, stop, operations, operation, argument)
            operation += argument
        elif code == TIME:
            at = read_time(text, at, stop)
        elif code == MARK:
            mark = at
        elif code == COLUMN:
            at = at if at - (mark if mark >= 0 else start) == argument else -1
        elif code == SEEK:
            retry, begin = operation, at
            tried = at = next_try(text, at, stop, operations, retry, begin)
        else:
            at = read(text, at, stop, code, argument, words, registers)
            is_changed = is_changed or at >= 0
        if at >= 0:
            continue
        if tried < stop:  # once more, further on
            tried = at = next_try(text, tried + 1, stop, operations, retry, begin)
            operation, mark = retry, -1
            continue
        if is_changed:
            for register in range(SAVED):
                registers[register] = registers[SAVED + register]
        return -1
    return at if mark < 0 else mark


@inner
def emit(emits: int, state: Counts, registers: Words, out_accesses: Words) -> bool:
    """Write the access that the registers hold; False when there is no room for it."""
    here = state[ACCESSES]
    if here + 2 > out_accesses.shape[1]:
        return False
    kind = np.int64(registers[KIND]) if emits == BY_KIND else emits
    if kind == FETCH:
        state[FETCHES] += 1
    for column in range(COLUMNS):
        out_accesses[column, here] = registers[column]
    if registers[ICOUNT] == ZERO:
        out_accesses[ICOUNT, here] = np.uint64(state[FETCHES])
    out_accesses[KIND, here] = np.uint64(LOAD if kind == MODIFY else kind)
    if kind == MODIFY:
        for column in range(COLUMNS):
            out_accesses[column, here + 1] = out_accesses[column, here]
        out_accesses[KIND, here + 1] = np.uint64(STORE)
        here += 1
    state[ACCESSES] = here + 1
    return True


@inner
def scan_line(
    text: Bytes, start: int, stop: int, program: LineProgram, state: Counts, registers: Words, out_accesses: Words
) -> int:
    """Take one line through its stages; return MORE when it is done, else FULL or NO_MATCH."""
    operations, patterns, words = program
    for register in range(len(registers)):
        registers[register] = ZERO
    first, at = 0, start
    while True:
        stage, chosen, after = patterns[first, STAGE], first, -1
        while chosen < len(patterns):
            if patterns[chosen, STAGE] == stage and may_match(text, at, stop, operations, patterns[chosen, FIRST]):
                after = match(text, at, stop, operations, patterns[chosen, FIRST], words, registers)
                if after >= 0:
                    break
            chosen += 1
        if after < 0:
            return NO_MATCH
        emits = patterns[chosen, EMITS]
        if emits != NOTHING and not emit(emits, state, registers, out_accesses):
            return FULL
        first, at = patterns[chosen, NEXT], after
        if first == LAST_STAGE:
            state[SEEN + chosen] += 1
            break
        state[SEEN + chosen] = 1
        for register in range(SAVED):
            registers[SAVED + register] = registers[register]
    return MORE


@kernel
def scan_lines(text: Bytes, program: LineProgram, state: Counts, registers: Words, out_accesses: Words) -> int:
    """Emit the accesses of the lines of a text; return a status. Twin: spec.traces.scan_lines."""
    while True:
        start = state[POSITION]
        end = start
        while end < len(text) and text[end] != NEWLINE:
            end += 1
        if end == len(text) and (start == end or not state[IS_LAST]):
            return MORE
        accesses, fetches = state[ACCESSES], state[FETCHES]
        stop = end - 1 if end > start and text[end - 1] == RETURN else end
        status = scan_line(text, start, stop, program, state, registers, out_accesses)
        if status != MORE:
            state[ACCESSES], state[FETCHES] = accesses, fetches
            return status
        state[LINES] += 1
        state[POSITION] = min(end + 1, len(text))


@kernel
def unpack_champsim(records: Words, places: RecordPlaces, first_icount: np.uint64, out_accesses: Words) -> int:
    """Write the accesses of ChampSim's records; return how many. Twin: spec.traces.unpack_champsim."""
    first_store, first_load, loads_end = places[FIRST_STORE], places[FIRST_LOAD], places[LOADS_END]
    accesses = 0
    icount = first_icount
    for record in range(len(records)):
        out_accesses[0, accesses], out_accesses[1, accesses] = records[record, POINTER], icount
        out_accesses[2, accesses] = np.uint64(FETCH)
        accesses += 1
        for first, end, kind in ((first_load, loads_end, LOAD), (first_store, first_load, STORE)):
            for place in range(first, end):
                gva = records[record, place]
                if gva != ZERO:
                    out_accesses[0, accesses], out_accesses[1, accesses] = gva, icount
                    out_accesses[2, accesses] = np.uint64(kind)
                    accesses += 1
        icount += ONE
    return accesses
