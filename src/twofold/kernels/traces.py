"""Traces of other tools, fast: lines by templates, ChampSim's records. Twin of `spec.traces`, which explains them."""

from typing import Final

import numpy as np

from twofold.formats import trace_program
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
    FIRST,
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
    OPERATION,
    POSITION,
    REST,
    SEEN,
    STAGE,
    STOP,
    THREAD,
    VCPU,
    WORD_CODE,
    WORD_LENGTH,
    WORD_TEXT,
)
from twofold.kernels._jit import bare, folded, kernel

ZERO, ONE, FOUR, TEN = np.uint64(0), np.uint64(1), np.uint64(4), np.uint64(10)
PERF_STORE, PERF_EXECUTE = np.uint64(trace_program.PERF_STORE), np.uint64(trace_program.PERF_EXECUTE)
TOP_DIGIT: Final = np.uint64(2**60)  # from here on a hexadecimal digit more does not fit 64 bits
TOP_TEN: Final = np.uint64((2**64 - 1) // 10)
NO_DIGIT: Final = np.uint64(16)
SHORT_LIMIT: Final = np.uint64(trace_program.SHORT_LIMIT)

NEWLINE, RETURN, BLANK, TAB = ord("\n"), ord("\r"), ord(" "), ord("\t")
NINE, SMALL_A, SMALL_F, LARGE_A, LARGE_F = ord("9"), ord("a"), ord("f"), ord("A"), ord("F")
NOUGHT, SMALL_X, LARGE_X, SMALL_Z, LARGE_Z, UNDERSCORE = ord("0"), ord("x"), ord("X"), ord("z"), ord("Z"), ord("_")


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


@bare
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


@bare
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


@bare
def find(text: Bytes, at: int, stop: int, operations: Counts, first: int, length: int) -> int:
    """Return the end of the first place where some literals stand, -1 when they do not."""
    while at + length <= stop:
        same = 0
        while same < length and text[at + same] == operations[first + same, ARGUMENT]:
            same += 1
        if same == length:
            return at + length
        at += 1
    return -1


@bare
def match(text: Bytes, at: int, stop: int, operations: Counts, operation: int, words: Bytes, registers: Words) -> int:
    """Run a pattern on a line from `at` to `stop`; return where it ends, -1 where it does not match."""
    while at >= 0:
        code, argument = operations[operation, OPERATION], operations[operation, ARGUMENT]
        operation += 1
        if code == LITERAL:
            if at == stop or text[at] != argument:
                return -1
            at += 1
        elif code == END:
            return at if at == stop else -1
        elif code == STOP:
            return at
        elif code == REST:
            return stop
        elif code == BLANKS:
            while at < stop and (text[at] == BLANK or text[at] == TAB):
                at += 1
        elif code == FIND:
            at = find(text, at, stop, operations, operation, argument)
            operation += argument
        elif code == KIND_WORD:
            at = read_kind(text, at, stop, words, registers)
        else:
            at = read_number(text, at, stop, code, argument, registers)
    return -1


@bare
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


@bare
def scan_line(
    text: Bytes, start: int, stop: int, program: LineProgram, state: Counts, registers: Words, out_accesses: Words
) -> int:
    """Take one line through its stages; return MORE when it is done, else FULL or NO_MATCH."""
    operations, patterns, words = program
    for register in range(len(registers)):
        registers[register] = ZERO
    stage, at = 0, start
    while stage != LAST_STAGE:
        chosen, after = -1, -1
        while after < 0:
            chosen += 1
            if chosen == len(patterns):
                return NO_MATCH
            if patterns[chosen, STAGE] == stage:
                after = match(text, at, stop, operations, patterns[chosen, FIRST], words, registers)
        state[SEEN + chosen] = 1
        emits = patterns[chosen, EMITS]
        if emits != NOTHING and not emit(emits, state, registers, out_accesses):
            return FULL
        stage, at = patterns[chosen, NEXT], after
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
def unpack_champsim(records: Words, first_icount: np.uint64, out_accesses: Words) -> int:
    """Write the accesses of ChampSim's records; return how many. Twin: spec.traces.unpack_champsim."""
    accesses = 0
    icount = first_icount
    for record in range(len(records)):
        out_accesses[0, accesses], out_accesses[1, accesses] = records[record, 0], icount
        out_accesses[2, accesses] = np.uint64(FETCH)
        accesses += 1
        for first, end, kind in ((FIRST_LOAD, RECORD_WORDS, LOAD), (FIRST_STORE, FIRST_LOAD, STORE)):
            for place in range(first, end):
                gva = records[record, place]
                if gva != ZERO:
                    out_accesses[0, accesses], out_accesses[1, accesses] = gva, icount
                    out_accesses[2, accesses] = np.uint64(kind)
                    accesses += 1
        icount += ONE
    return accesses
