"""The text formats of other tools, as templates of their lines. How templates read is explained in `trace.templates`.

Lines are tried in the order in which they stand: the empty one, which costs nothing to tell, then the frequent ones. A
line that matches none ends the reading with an error that names its place: what is read is never guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from twofold.errors import FormatError
from twofold.formats.kinds import FETCH, LOAD, STORE
from twofold.formats.trace_program import BY_KIND, MODIFY
from twofold.trace.templates import Line


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
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    words: Mapping[str, int] = field(default_factory=dict)
    is_written_whole: bool = True
    notes: tuple[str, ...] = ()


# valgrind --tool=lackey --trace-mem=yes. Source: Valgrind manual, "Lackey: an example tool"; lackey/lk_main.c
LACKEY: Final = TextFormat(
    "lackey",
    "line of Valgrind's lackey",
    (
        Line("I  {gva:x},{length:d}", FETCH),
        Line(" L {gva:x},{length:d}", LOAD),
        Line(" S {gva:x},{length:d}", STORE),
        Line(" M {gva:x},{length:d}", MODIFY),
        Line("=={*}"),
        Line("--{*}"),
        Line("**{*}"),
    ),
    notes=("Addresses are those of the process under Valgrind, which places its libraries and stack itself.",),
)

# drrun -t drmemtrace -tool view. Source: DynamoRIO, clients/drcachesim/tools/view.cpp
DRMEMTRACE: Final = TextFormat(
    "drmemtrace",
    "record of drmemtrace's view tool",
    (
        Line(""),
        Line("{~}{:d}{~}{icount:d}:{~}{thread:d} ", then=1),
        Line("{~}{:d}{~}{icount:d}:{~}W{:d}.T{thread:d} ", then=1),
        Line("ifetch{~}{:d} byte(s) @ {:x} non-fetched instruction", stage=1),
        Line("{kind}{~}{length:d} byte(s) @ {gva:x}{*}", BY_KIND, stage=1),
        Line("<{*}", stage=1),
        Line("pref{*}", stage=1, note="Prefetches are left out."),
        Line("iflush{*}", stage=1),
        Line("dflush{*}", stage=1),
        Line("        {*}", stage=1),  # the bytes of an instruction that did not fit its line
        Line("--{*}"),
        Line("Output format:"),
        Line("<--record#-> {*}"),
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

_SAMPLES: Final = "Samples, not every access: a simulation of them counts too few hits."

# perf script -F +addr. Source: linux, tools/perf/builtin-script.c
PERF_SCRIPT: Final = TextFormat(
    "perf-script",
    "sample of perf script",
    (
        Line(""),
        Line("{*}[{vcpu:d}] {*}: ", then=1),
        Line("{*}: ", then=1),
        Line("#{*}"),
        Line("{*}", note=(_NO_ADDRESS := "Lines without an address are left out.")),
        Line("{*}loads{*}: {~}", stage=1, then=2),
        Line("{*}stores{*}: {~}", stage=1, then=3),
        Line("{*}: {~}", stage=1, then=2, note="Where an event does not say what it samples it is taken for loads."),
        Line("{*}", stage=1, note=_NO_ADDRESS),
        Line("{gva:x} {~}{source} |OP {*}", BY_KIND, stage=2),
        *(
            Line(template, kind, stage=stage)
            for stage, kind in ((2, LOAD), (3, STORE))
            for template in ("{gva:x}{~}", "{gva:x} {~}{:x}{~}", "{gva:x} {~}{:x} {*}", "{gva:x} {*}  {~}{:x} {*}")
        ),
        Line("{*}", stage=2, note=_NO_ADDRESS),
        Line("{*}", stage=3, note=_NO_ADDRESS),
    ),
    notes=(_SAMPLES,),
)

# perf mem -D report, with and without -x,. Source: linux, tools/perf/builtin-mem.c
PERF_MEM: Final = TextFormat(
    "perf-mem",
    "raw sample of perf mem",
    (
        Line(""),
        Line("{:d} {:d} {:x} {gva:x} {:d} {source} {*}", BY_KIND),
        Line("{:d},{:d},{:x},{gva:x},{:d},{source},{*}", BY_KIND),
        # perf writes "0x016" for "0x" and a width of 16 in its first line
        Line("{~}{:d}{~}{:d}{~}{:x}{~}0x016{gva:x}{~}{:d}{~}{source} {*}", BY_KIND),
        Line("{~}{:d}{~}{:d}{~}{:x}{~}{gva:x}{~}{:d}{~}{source} {*}", BY_KIND),
        Line("# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL"),
    ),
    notes=(_SAMPLES, "Where a sample does not say what it is it is taken for a load."),
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

# gem5 --debug-flags=Exec. Source: gem5, src/cpu/exetrace.cc
GEM5_EXEC: Final = TextFormat(
    "gem5-exec",
    "line of gem5's Exec flag",
    (
        Line(""),
        Line("{~}{:d}: {*}.cpu{vcpu:d}", then=1),
        Line("{~}{:d}: {*}.switch_cpus{vcpu:d}", then=1),
        Line("{~}{:d}: ", then=1),
        Line("{*} : MemRead {*} A={gva:x}{*}", LOAD, stage=1),
        Line("{*} : MemWrite {*} A={gva:x}{*}", STORE, stage=1),
        Line("{*} : FloatMemRead {*} A={gva:x}{*}", LOAD, stage=1),
        Line("{*} : FloatMemWrite {*} A={gva:x}{*}", STORE, stage=1),
        Line("{*}", stage=1),
        Line("gem5 {*}"),
        Line("info: {*}"),
        Line("warn: {*}"),
        Line("**** {*}"),
    ),
    notes=("Lengths and fetches are not in the log.",),
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
