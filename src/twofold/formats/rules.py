"""Which rule a malformed entry breaks: what `shape.malformed` answers, taken apart and said.

One entry may break several; the first here gives a finding its code, and all are said, each with its bits. An entry
that is marked "to be recalculated" breaks none by the memory type that marks it.
Source: Intel SDM vol. 3, "EPT Misconfigurations"; AMD APM vol. 2, "#PF: Page-Fault Exception", bit RSV.
"""

from typing import Final, NamedTuple

from twofold.formats import findings, shape
from twofold.formats.arrays import Words

_RIGHTS: Final = 7
_MEMORY_TYPE: Final = 7 << shape.MEMORY_TYPE_SHIFT


class Broken(NamedTuple):
    """A rule that an entry breaks. code : of `findings`;  says : which it is, and by which bits."""

    code: int
    says: str


def broken_rules(words: Words, entry: int, level: int) -> tuple[Broken, ...]:
    """Return the rules that a present entry breaks; none of a well-formed one."""
    bad = shape.malformed(words, entry, level)
    if shape.needs_recalc(words, entry, level):
        bad &= ~int(words[shape.RECALC_MASK])
    is_leaf, is_large = shape.is_leaf(words, entry, level), shape.is_large(words, entry, level)
    broken = []
    if bad & _RIGHTS and int(words[shape.BAD_RIGHTS]):
        broken.append(Broken(findings.BAD_RIGHTS, f"rights {entry & _RIGHTS:03b}b: write without read"))
        bad &= ~_RIGHTS
    width = int(words[shape.ADDRESS_BITS])
    if above := bad & shape.bits_above(words, width, is_large=is_large):
        broken.append(Broken(findings.ADDRESS_WIDTH, f"{_named(above)} set above {width} address bits"))
        bad &= ~above
    if is_leaf and bad & _MEMORY_TYPE and int(words[shape.BAD_MEMORY_TYPES]):
        broken.append(Broken(findings.BAD_MEMORY_TYPE, f"memory type {(entry & _MEMORY_TYPE) >> 3} is reserved"))
        bad &= ~_MEMORY_TYPE
    if others := bad & ~(int(words[shape.FRAME]) if is_leaf else 0):
        broken.append(Broken(findings.RESERVED_BITS, f"reserved {_named(others)} set"))
        bad &= ~others
    if bad:
        says = f"maps frames that do not start at a multiple of its size: {_named(bad)} set"
        broken.append(Broken(findings.MISALIGNED, says))
    return tuple(broken)


def _named(bits: int) -> str:
    """Return bits as "bit 7 (0x80)" or "bits 51:43 (0xff80000000000)", runs from the highest on."""
    runs, left = [], bits
    while left:
        high = left.bit_length() - 1
        low = high
        while low and left >> (low - 1) & 1:
            low -= 1
        runs.append(f"{high}:{low}" if high > low else f"{high}")
        left &= (1 << low) - 1
    return f"bit{'s' if bits & (bits - 1) else ''} {', '.join(runs)} ({bits:#x})"
