"""Lines of text by templates: how a tool writes an access, in a form that people read and a kernel runs.

A template is the line itself with holes in it:

    {gva:x}  a number: x hexadecimal, d decimal, n either; into gva, icount, length, vcpu or thread
    {:d}     a number that is not wanted
    {kind}   a word of the format's table, that says what the access was
    {source} perf's data source, a hexadecimal number that says it too
    {~}      any number of blanks
    {*}      anything up to the text that follows it in the template, or up to the end of the line

`spec.traces` explains the operations that come of it, and the stages that a line goes through.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
_NUMBERS: Final = {"x": at.HEX, "d": at.DEC, "n": at.NUMBER}
_SINGLE: Final = {"~": (at.BLANKS, 0), "kind": (at.KIND_WORD, 0), "source": (at.DATA_SOURCE, 0)}

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
    note : what a trace with such a line has to say about itself
    """

    template: str
    emits: int = NOTHING
    stage: int = 0
    then: int = LAST_STAGE
    note: str = ""


def compile_lines(lines: Iterable[Line], words: Mapping[str, int]) -> LineProgram:
    """Return these lines compiled.

    Parameters
    ----------
    words : {word: kind} for {kind}; longer words must stand before those that they begin with
    """
    program: list[Operation] = []
    patterns = []
    for line in lines:
        operations = _operations(line.template)
        if line.stage == line.then and (not operations or operations[0][0] != at.LITERAL):
            raise ValueError(f"{line.template!r} goes on in its own stage without taking a byte")
        operations.append((at.END if line.then == LAST_STAGE else at.STOP, 0))  # behind a REST it is never reached
        patterns.append((line.stage, len(program), line.emits, line.then))
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


def _operation(hole: str, following: str) -> Operation:
    """Return the operation of one hole; `following` is the text up to the next one."""
    if hole == "*":
        return (at.FIND, len(following.encode())) if following else (at.REST, 0)
    if hole in _SINGLE:
        return _SINGLE[hole]
    name, _, form = hole.partition(":")
    return _NUMBERS[form], _REGISTERS[name]
