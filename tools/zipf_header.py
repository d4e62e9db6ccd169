"""Write `data/programs/zipf.h`: the table that programs draw ranks by, as `twofold.trace.zipf` has it.

    python tools/zipf_header.py    # prints it; the programs are built from the copy beside them

Needs Twofold itself. A test holds the copy equal to what this prints.
"""

import sys
from collections.abc import Iterable

from twofold.formats.workloads import KEEP
from twofold.trace.zipf import DEFAULT_SKEW, zipf_table

ROW = 8  # numbers a line


def array_of(name: str, kind: str, numbers: Iterable[int]) -> str:
    """Return an array as C source."""
    words = [f"{number:#x}" for number in numbers]
    rows = [f"    {', '.join(words[start : start + ROW])}," for start in range(0, len(words), ROW)]
    return f"static const {kind} {name}[] = {{\n" + "\n".join(rows) + "\n};\n"


def header() -> str:
    """Return the header."""
    table = zipf_table(DEFAULT_SKEW).tolist()
    return (
        f"/* Made by tools/zipf_header.py: what ranks are drawn by, P(rank) ~ 1 / rank**{DEFAULT_SKEW}.\n"
        " * The weights of the octaves up to each one, summed; then the probabilities, out of 2**32, to keep a rank,\n"
        " * at 2048 places of an octave and at its end. */\n"
        "#include <stdint.h>\n\n"
        + array_of("zipf_octaves", "uint64_t", table[:KEEP])
        + "\n"
        + array_of("zipf_kept", "uint32_t", table[KEEP:])
    )


if __name__ == "__main__":
    sys.stdout.write(header())
