"""Lines of text by templates: how a tool writes an access, in a form that people read and a kernel runs.

A template is the line itself with holes in it:

    {gva:x}  a number: x hexadecimal, d decimal, n either; into gva, icount, length, vcpu or thread
    {:d}     a number that is not wanted
    {kind}   a word of the format's table, that says what the access was
    {source} perf's data source, a hexadecimal number that says it too
    {~}      any number of blanks
    {*}      anything up to the text that follows it in the template, or up to the end of the line
    {**}     anything, as little of it as will do: up to the first place from which all that follows matches
    {!}      what follows must match, but the next stage goes on from here
    {token}  what holds no blank; {token kind}: and a word of the table, that says what the access was
    {name}   a token with a letter in it
    {event}  the same with a colon at its end; {event kind}: and a word of the table in it
    {core}   such a token, the path of a gem5 object: its last number is the vCPU
    {time}   seconds and six or nine digits of a fraction, as perf writes a time
    {gva:f}  an address as perf writes one: hexadecimal, at the right of 16 columns; {:f} one that is not wanted
    {gva:a}  the same in any number of columns; nothing that could be a word: it begins with a digit, or is long
    {vcpu:0} nothing; the number is 0
    {10}     nothing; the columns so far are ten, counted from {!} where that stands before
    {$}      the end of the line, where another stage follows

`spec.traces` explains the operations that come of it, and the stages that a line goes through.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from twofold.formats import trace_program as at
from twofold.formats.operands import LineProgram
from twofold.formats.trace_program import LAST_STAGE, NOTHING

_HOLE: Final = re.compile(r"\{([^{}]*)\}")
_REGISTERS: Final = {
    "gva": at.GVA,
    "icount": at.ICOUNT,
    "length": at.LENGTH,
    "vcpu": at.VCPU,
    "thread": at.THREAD,
    "": at.DROPPED,
}
_NUMBERS: Final = {"x": at.HEX, "d": at.DEC, "n": at.NUMBER, "f": at.FIELD, "a": at.ADDRESS, "0": at.CLEAR}
_SINGLE: Final = {
    "~": (at.BLANKS, 0),
    "kind": (at.KIND_WORD, 0),
    "source": (at.DATA_SOURCE, 0),
    "**": (at.SEEK, 0),
    "!": (at.MARK, 0),
    "$": (at.END, 0),
    "token": (at.TOKEN, 0),
    "token kind": (at.TOKEN, at.HAS_KIND),
    "name": (at.TOKEN, at.HAS_LETTER),
    "event": (at.TOKEN, at.HAS_LETTER | at.HAS_COLON),
    "event kind": (at.TOKEN, at.HAS_LETTER | at.HAS_COLON | at.HAS_KIND),
    "core": (at.CORE, 0),
    "time": (at.TIME, 0),
}
_MAY_TAKE_NOTHING: Final = {at.BLANKS, at.REST, at.SEEK, at.MARK, at.CLEAR, at.COLUMN}

Operation = tuple[int, int]


@dataclass(frozen=True)
class Line:
    """One way in which a line, or a stage of it, may look.

    Parameters
    ----------
    template : see the module
    emits : the kind of access that it is: LOAD, STORE, FETCH, MODIFY, BY_KIND or NOTHING
    stage : where it is tried; every line starts in stage 0
    then : the stage that goes on behind it; LAST_STAGE, when the line ends there
    note : what a trace with such a line has to say about itself; "{lines}" in it stands for how many of them there are
    is_evidence : such a line is one of this format; others are taken for it where the format was named
    """

    template: str
    emits: int = NOTHING
    stage: int = 0
    then: int = LAST_STAGE
    note: str = ""
    is_evidence: bool = True


@dataclass(frozen=True)
class TextFormat:
    """How a tool writes a trace.

    Parameters
    ----------
    name : for --from
    title : what an access of it is called in a message
    lines : of which it consists
    words : {word: kind} for {kind}
    is_written_whole : every line ends with a newline; without one at the end the file is cut
    notes : what holds for every trace of this format
    unaddressed : what is wrong with a file that has lines and not one address; empty where that may be
    is_mixed : most lines may be of somebody else
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    words: Mapping[str, int] = field(default_factory=dict)
    is_written_whole: bool = True
    notes: tuple[str, ...] = ()
    unaddressed: str = ""
    is_mixed: bool = False


def compile_lines(lines: Iterable[Line], words: Mapping[str, int]) -> LineProgram:
    """Return these lines compiled.

    Parameters
    ----------
    words : {word: kind} for {kind}; longer words must stand before those that they begin with
    """
    program: list[Operation] = []
    patterns = []
    lines = tuple(lines)
    first = {line.stage: place for place, line in reversed(list(enumerate(lines)))} | {LAST_STAGE: LAST_STAGE}
    for line in lines:
        operations = _operations(line.template)
        if line.stage == line.then and not _takes_a_byte(operations):
            raise ValueError(f"{line.template!r} goes on in its own stage without taking a byte")
        operations.append((at.END if line.then == LAST_STAGE else at.STOP, 0))  # behind a REST it is never reached
        patterns.append((line.stage, len(program), line.emits, first[line.then]))
        program += operations
    table = np.zeros((len(words), at.WORD_BYTES), np.uint8)
    for row, (word, code) in zip(table, words.items(), strict=True):
        text = word.encode()
        row[: at.WORD_TEXT + len(text)] = code, len(text), *text
    return LineProgram(np.array(program, np.int64), np.array(patterns, np.int64), table)


def _operations(template: str) -> list[Operation]:
    """Return the operations of one template."""
    first, *rest = _HOLE.split(template)  # text, then a hole and the text behind it, again and again
    found = [(at.LITERAL, char) for char in first.encode()]
    for hole, text in zip(rest[::2], rest[1::2], strict=True):
        found.append(_operation(hole, text))
        found += [(at.LITERAL, char) for char in text.encode()]
    return found


def _takes_a_byte(operations: list[Operation]) -> bool:
    """Return whether a pattern ends behind where it began, whatever it matches."""
    codes = [code for code, _ in operations]
    return any(code not in _MAY_TAKE_NOTHING for code in codes[: codes.index(at.MARK) if at.MARK in codes else None])


def _operation(hole: str, following: str) -> Operation:
    """Return the operation of one hole; `following` is the text up to the next one."""
    if hole == "*":
        return (at.FIND, len(following.encode())) if following else (at.REST, 0)
    if hole in _SINGLE:
        return _SINGLE[hole]
    if hole.isdecimal():
        return (at.COLUMN, int(hole))
    name, _, form = hole.partition(":")
    return _NUMBERS[form], _REGISTERS[name]
