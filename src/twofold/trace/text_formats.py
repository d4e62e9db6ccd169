"""The text formats of other tools, as templates of their lines. How templates read is explained in `trace.templates`.

Lines are tried in the order in which they stand: the empty one, which costs nothing to tell, then the frequent ones. A
line that matches none ends the reading with an error that names its place: what is read is never guessed.
"""

import re
from pathlib import Path
from typing import Final

from twofold.errors import FormatError
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.formats.trace_program import BY_KIND, MODIFY
from twofold.trace.perf_formats import PERF_MEM, PERF_MEM_HEADER, PERF_SCRIPT
from twofold.trace.templates import Line, TextFormat

# valgrind --tool=lackey --trace-mem=yes, with --trace-superblocks=yes or not, its blanks squeezed or not.
# Source: Valgrind manual, "Lackey: an example tool"; lackey/lk_main.c
LACKEY: Final = TextFormat(
    "lackey",
    "line of Valgrind's lackey",
    (
        Line("I  {gva:x},{length:d}", FETCH),
        Line(" L {gva:x},{length:d}", LOAD),
        Line(" S {gva:x},{length:d}", STORE),
        Line(" M {gva:x},{length:d}", MODIFY),
        Line("SB {:x}"),
        Line("=={*}"),
        Line("--{*}"),
        Line("**{*}"),
        Line("{~}{kind}{~}{gva:x},{length:d}", BY_KIND),
        Line("{~}M{~}{gva:x},{length:d}", MODIFY),
    ),
    {"I": FETCH, "L": LOAD, "S": STORE},
    notes=("Addresses are those of the process under Valgrind, which places its libraries and stack itself.",),
)

# drrun -t drmemtrace -tool view, also of releases until 2022: "T" before a thread, no count of instructions.
# Source: DynamoRIO, clients/drcachesim/tools/view.cpp
DRMEMTRACE: Final = TextFormat(
    "drmemtrace",
    "record of drmemtrace's view tool",
    (
        Line(""),
        Line("{~}{:d}{~}{icount:d}:{~}{thread:d} ", then=1),
        Line("{~}{:d}{~}{icount:d}:{~}W{:d}.T{thread:d} ", then=1),
        Line("{~}{:d}:{~}T{thread:d} ", then=1),
        Line("{~}{:d}:{~}W{:d}.T{thread:d} ", then=1),
        Line("{~}{:d}{~}{icount:d}:{~}T{thread:d} ", then=1),
        Line("ifetch{~}{:d} byte(s) @ {:x} non-fetched instr{*}", stage=1),
        Line("{kind}{~}{length:d} byte(s) @ {gva:x}{*}", BY_KIND, stage=1),
        Line("<{*}", stage=1),
        Line("pref{*}", stage=1, note="Prefetches are left out."),
        Line("iflush{*}", stage=1),
        Line("dflush{*}", stage=1),
        Line("        {*}", stage=1),  # the bytes of an instruction that did not fit its line
        Line("--{*}"),
        Line("Output format:"),
        Line("<--record#-> {*}"),
        Line("<record#>: {*}"),
        Line("View tool results:"),
        Line("{~}{:d} : total{*}"),
    ),
    {"ifetch": FETCH, "read": LOAD, "write": STORE},
)

# qemu-x86_64 -plugin libexeclog.so -d plugin. Source: QEMU, contrib/plugins/execlog.c
EXECLOG: Final = TextFormat(
    "execlog",
    "line of QEMU's execlog plugin",
    (
        Line(""),
        Line('{vcpu:d}, {gva:x}, {:x}, "{*}"', FETCH, then=1),
        Line(", {kind}, {gva:x}", BY_KIND, stage=1, then=1),
        Line(", {*} -> {*}", stage=1),  # registers that changed
        Line(", {*},", stage=1, then=2, note=(_PHYSICAL := "Data addresses are guest-physical: QEMU ran a system.")),
        Line(", {*}", stage=1, note=_PHYSICAL),
        Line("", stage=1),
        Line(" {kind}, {gva:x}", BY_KIND, stage=2, then=1),
    ),
    {"load": LOAD, "store": STORE},
    notes=("Lengths are not in the log.",),
)

# util/decode_packet_trace.py of gem5, with or without a packet's ID, flags and PC
GEM5_PACKETS: Final = TextFormat(
    "gem5-packets",
    "packet of gem5's decode_packet_trace.py",
    (
        Line("{kind},{gva:d},{length:d},{*}", BY_KIND),
        Line("u,{:d},{:d},{*}", note=(_OTHER := "Packets that neither read nor write are left out.")),
        Line("{:d},{kind},{gva:d},{length:d},{*}", BY_KIND),
        Line("{:d},u,{:d},{:d},{*}", note=_OTHER),
    ),
    {"r": LOAD, "w": STORE},
    notes=("Addresses are those of the monitored port: physical ones below a CPU's MMU.",),
)

# gem5 --debug-flags=Exec: tick, core, then columns between " : ": pointer, instruction, its class, and results. What
# gem5 and the program under it print stands between, before and behind. Of the classes, those that read end in Read or
# Load, those that write in Write or Store. Source: gem5, src/cpu/exetrace.cc, src/base/trace.cc, src/cpu/FuncUnit.py
GEM5_EXEC: Final = TextFormat(
    "gem5-exec",
    "line of gem5's Exec flag",
    (
        Line(""),
        Line("{~}{:d}: {core} ", then=1),
        Line("{~}{:d}: {event} {core} ", then=1),  # --debug-flags=FmtFlag
        *(  # FmtTicksOff; and behind what a program printed without the end of a line
            Line(start + "{core} {!}" + thread + "T{:d} : ", then=1, is_evidence=not start)
            for start in ("", "{**}: ")
            for thread in ("", "A{:d} ")
        ),
        Line("{*}", note="Lines of gem5 itself that are left out: {lines}.", is_evidence=False),
        Line("{token kind} : ", stage=1, then=2),
        Line("{*} : ", stage=1, then=1),
        Line("{~}A={gva:x}", stage=1, then=3),
        Line("{*} A={gva:x}", stage=1, then=3),
        Line("{*}", stage=1),
        Line("{~}A={gva:x}{*}", BY_KIND, stage=2),
        Line("{*} A={gva:x}{*}", BY_KIND, stage=2),
        Line("{*}", stage=2),
        # No class, or one that does not say: the flags do.
        Line("{*}IsLoad{*}IsStore{*}", MODIFY, stage=3),
        Line("{*}IsStore{*}IsLoad{*}", MODIFY, stage=3),
        Line("{*}IsStore{*}", STORE, stage=3),
        Line("{*}IsLoad{*}", LOAD, stage=3),
        Line("{*}IsAtomic{*}", MODIFY, stage=3),
        Line("{*}", LOAD, stage=3, note="Where neither class nor flags say what an access is it is taken for a load."),
    ),
    {"Read": LOAD, "Load": LOAD, "Write": STORE, "Store": STORE},
    notes=("Lengths and fetches are not in the log.",),
    unaddressed="has no access with an address: run gem5 with --debug-flags=Exec",
    is_mixed=True,
)

_CSV_NAMES: Final = {
    "gva": ("gva", "vaddr", "va", "addr", "address"),
    "kind": ("kind", "type", "op", "rw", "access", "write"),
    "length": ("length", "bytes", "size"),
    "vcpu": ("vcpu", "cpu", "core"),
    "thread": ("tid", "thread"),
    "icount": ("icount", "instructions", "instruction_count"),
}
_CSV_WORDS: Final = {
    **dict.fromkeys(("load", "read", "l", "r", "0", "false"), LOAD),
    **dict.fromkeys(("store", "write", "s", "w", "1", "true"), STORE),
    **dict.fromkeys(("fetch", "ifetch", "exec", "instr", "i", "x", "f", "2"), FETCH),
}
_CSV_MAX_COLUMNS: Final = 64


def csv_format(path: Path, header: str) -> TextFormat | None:
    """Return the format of a CSV file with this header line; None when no column of it holds addresses.

    Raises
    ------
    FormatError : two columns for the same thing; `path` says of which file
    """
    if header.startswith(PERF_MEM_HEADER):
        return None
    delimiter = next((each for each in (",", ";", "\t") if each in header), ",")
    columns = [_csv_column(name) for name in header.strip().split(delimiter)]
    known = [column for column in columns if column]
    if "gva" not in known or len(columns) > _CSV_MAX_COLUMNS:
        return None
    if twice := {column for column in known if known.count(column) > 1}:
        raise FormatError(path, f"has two columns for {', '.join(sorted(twice))}", 0)
    template = _csv_template(columns, delimiter)
    words = {form: kind for word, kind in _CSV_WORDS.items() for form in {word, word.upper(), word.capitalize()}}
    emits = BY_KIND if "kind" in known else LOAD
    lines = (Line(template, emits), Line(_literal(header.rstrip("\r"))), Line(""), Line("#{*}"))
    return TextFormat("csv", "row of a CSV file", lines, words, is_written_whole=False)


def _csv_column(name: str) -> str:
    """Return what a column of that name holds, "" when it is not wanted."""
    plain = re.sub(r"[^a-z0-9_]", "", name.lower())
    return next((column for column, names in _CSV_NAMES.items() if plain in names), "")


def _csv_template(columns: list[str], delimiter: str) -> str:
    """Return the template of a row."""
    around = "" if delimiter == "\t" else "{~}"  # which takes tabs for blanks
    holes = {"": "{*}", "kind": around + "{kind}" + around}
    return delimiter.join(holes.get(column, f"{around}{{{column}:n}}{around}") for column in columns)


def _literal(text: str) -> str:
    """Return a template that matches a text and nothing else, holes in it skipped."""
    return text.partition("{")[0] + ("{*}" if "{" in text else "")


TEXT_FORMATS: Final = {
    each.name: each for each in (LACKEY, DRMEMTRACE, EXECLOG, PERF_MEM, GEM5_PACKETS, GEM5_EXEC, PERF_SCRIPT)
}
