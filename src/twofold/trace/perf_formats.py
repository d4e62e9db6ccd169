"""What perf writes: samples of perf script, raw samples of perf mem.

perf script prints the fields of a sample in one order, whatever that of -F is: the command, which may hold anything,
its IDs, [CPU], time, period, event, address with its symbol, data source, weight, instruction with its symbol, physical
address, page size. An address is at the right of 16 columns, an instruction of 17: the place tells them apart, not the
digits. A field that is missing leaves no mark, so a line is read from what cannot be anything else: a time, an event.

Left out: tracepoints whose own text stands before the address; branch stacks, which are no accesses.
"""

from collections.abc import Iterator
from typing import Final

from twofold.formats.kinds import LOAD, STORE
from twofold.formats.trace_program import BY_KIND
from twofold.trace.templates import Line, TextFormat

_SAMPLES: Final = "Samples, not every access: a simulation of them counts too few hits."
_NO_ADDRESS: Final = "Lines without an address that are left out: {lines}."
_RECORD: Final = "has no sample with an address: record with `perf record -d` or `perf mem record`"
_TAKEN_FOR_LOADS: Final = "Where an event does not say what it samples it is taken for loads."
_PERF_KINDS: Final = {"load": LOAD, "LOAD": LOAD, "store": STORE, "STORE": STORE}

_PERF_STARTS: Final = (
    "{**}[{vcpu:d}] {~}{time}: ",
    "{**}[{vcpu:d}] {name} {~}{time}: ",  # -F +misc
    "{**}[{vcpu:d}] {:d}-{:d}-{:d} {:d}:{:d}:{:d}.{:d} {~}{time}: ",  # -F +tod
    "{**}{time}: {vcpu:0}",
)
_PERF_ROUNDED: Final = ("{**}[{vcpu:d}] {~}{:d}.{:d}: ", "{**} {:d}.{:d}: {vcpu:0}", "{**}[{vcpu:d}] {~}")  # or no time
_PERF_HEADS: Final = (
    *(
        Line(start + "{!}" + event, then=1)
        for start in (*_PERF_STARTS, *_PERF_ROUNDED)
        for event in ("{~}{:d} {~}{event}", "{~}{event}")  # with a period, without
    ),
    *(
        Line(start + "{!}" + period + field, then=6, note=_TAKEN_FOR_LOADS)
        for start in _PERF_STARTS
        for period in ("", "{~}{:d}{10} ")
        for field in ("{:f}", " {:f}")
    ),
    # Neither time nor CPU: an event, and behind it what only perf writes so.
    *(
        Line("{**}{!}" + fields, then=1)
        for fields in (
            "{event} {:f}{~}{$}",
            "{event} {:f} {:f}{*}",
            "{event} {:f}{:f}{*}",
            "{event} {:f} {*} ({*}",
            "{event}  {:f}{~}{$}",
            "{event}  {:f} {*} ({*}",
            "{event} {~}{:x}{~}|{*}",
            "{event} {~}{:x}{~}{:x}{~}|{*}",
            "{event kind} {~}{:a}{~}{$}",
        )
    ),
    # Numbers in columns and no event: any table may look so.
    *(Line(start + "{gva:f}", then=5, is_evidence=False) for start in ("", "{**}[{vcpu:d}] ", "{**}{token} ")),
)
_PERF_BARE: Final = (
    Line(" {~}{source} |{*}", BY_KIND, stage=5, is_evidence=False),
    *(
        Line(rest, LOAD, stage=5, note=_TAKEN_FOR_LOADS, is_evidence=False)
        for rest in ("{~}", " {:f}{*}", "{:f}{*}")  # a symbol stands in call chains too
    ),
    Line("{*}", stage=5, note=_NO_ADDRESS, is_evidence=False),
)
_PERF_EVENTS: Final = (
    Line("{~}{:d} {~}{event kind} ", stage=1, then=2),
    Line("{~}{event kind} ", stage=1, then=2),
    Line("{~}{:d} {~}{event} ", stage=1, then=2, note=_TAKEN_FOR_LOADS),
    Line("{~}{event} ", stage=1, then=2, note=_TAKEN_FOR_LOADS),
    Line("{*}", stage=1, note=_NO_ADDRESS),
)
_PERF_FIELDS: Final = (
    Line("{gva:a}", stage=2, then=4),  # of 16 digits, or the columns were lost
    Line("{gva:f}", stage=2, then=3),
    Line(" {:f}{*}", stage=2, note=_NO_ADDRESS),  # an instruction
    Line("{~}{gva:a}", stage=2, then=4),
    Line("{*}", stage=2, note=_NO_ADDRESS),
    # What stands in the columns of an address is one, unless words follow that explain a data source.
    Line(" {~}|{*}", stage=3, note=_NO_ADDRESS),
    Line(" {~}{source} |{*}", BY_KIND, stage=3),
    Line("{*}", BY_KIND, stage=3),
    # Else it is one when something follows that can only come behind one.
    Line("{~}", BY_KIND, stage=4),
    Line(" {~}{source} |{*}", BY_KIND, stage=4),
    Line(" {~}{:a}{*}", BY_KIND, stage=4),
    Line(" {**}) {~}{:a} {*}){*}", BY_KIND, stage=4),
    Line("{*}", stage=4, note=_NO_ADDRESS),
    # Behind a time and no event: a period perhaps, and nothing but the columns tells what is what.
    Line("{gva:f}", stage=6, then=3),
    Line("{~}{:d}{10} {gva:f}", stage=6, then=3),
    Line("{*}", stage=6, note=_NO_ADDRESS),
)

# perf script -F +addr. Source: linux, tools/perf/builtin-script.c, process_event
PERF_SCRIPT: Final = TextFormat(
    "perf-script",
    "sample of perf script",
    (
        Line(""),
        *_PERF_HEADS,
        Line("#{*}"),
        Line("\t{*}"),  # a call chain
        Line("{*}", note=_NO_ADDRESS, is_evidence=False),
        *_PERF_EVENTS,
        *_PERF_FIELDS,
        *_PERF_BARE,
    ),
    _PERF_KINDS,
    notes=(_SAMPLES,),
    unaddressed=f"{_RECORD}, and print with `perf script -F +addr`",
)

PERF_MEM_HEADER: Final = "# PID, TID, IP, ADDR, "
_PERF_MEM_SEPARATORS: Final = (",", ";", ":", "|", "\t")
# What stands between an address and its data source: a physical address, a page size, the weight, which is decimal.
_PERF_MEM_COLUMNS: Final = (("{:d}",), ("0x{:x}", "{:d}"), ("{*}", "{:d}"), ("0x{:x}", "{*}", "{:d}"))


def _perf_mem_lines() -> Iterator[Line]:
    """Yield the lines of every separator, then those of columns that are padded with blanks; each has its own stage."""
    for stage, separator in enumerate(_PERF_MEM_SEPARATORS, 1):
        yield Line(separator.join(("{:d}", "{:d}", "0x{:x}", "0x")), then=stage)
    padded = len(_PERF_MEM_SEPARATORS) + 1
    for prefix in ("0x016", "0x"):  # perf writes "0x016" for "0x" and a width of 16 in its first line
        yield Line("{~}{:d}{~}{:d}{~}0x{:x}{~}" + prefix, then=padded)
    for stage, separator in enumerate(_PERF_MEM_SEPARATORS, 1):
        yield Line(f"0{separator}{{*}}", stage=stage, note=_NO_ADDRESS)
        for columns in _PERF_MEM_COLUMNS:
            yield Line(separator.join(("{gva:x}", *columns, "0x{source}", "{*}")), BY_KIND, stage)
    yield Line("0 {*}", stage=padded, note=_NO_ADDRESS)
    for columns in _PERF_MEM_COLUMNS:
        words = (column.replace("*", "token") for column in columns)
        yield Line("{~}".join(("{gva:x}", *words, "0x{source} {*}")), BY_KIND, padded)


# perf mem -D report, with physical addresses and page sizes or not, padded or with a separator of -x.
# Source: linux, tools/perf/builtin-mem.c, dump_raw_samples
PERF_MEM: Final = TextFormat(
    "perf-mem",
    "raw sample of perf mem",
    (Line(""), *_perf_mem_lines(), Line(f"{PERF_MEM_HEADER}{{*}}")),
    notes=(_SAMPLES, "Where a sample does not say what it is it is taken for a load."),
    unaddressed=_RECORD,
)
