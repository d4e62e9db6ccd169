"""The built-in workloads: programs, and the same sequences of addresses from a generator.

A workload exists twice. Its *program* is machine code that an engine executes in a guest: the truth, short.
Its *addresses* come from a kernel: the same measured accesses in the same order, from any step on, as many as one
likes. A test holds the two equal. Its *answer* is what the program must return, computed without running it
(`answers`). Some draw keys by Zipf: their addresses take a skew, and their programs have the default one built in.

A program is a static x86-64 ELF, linked at 4 MiB, entered with the gva of its parameter block in `rdi`. It
uses no stack and ends with `hlt`. Its area must read as zero at entry. Built for i386 it takes the gva in `eax`, and
uses a stack below `STACK_BYTES` from the block; each word is accessed in two halves. The block, little-endian:

     0      8           16      24     32      40       48   [bytes]
    +------+-----------+-------+------+-------+--------+
    | base | footprint | steps | seed | phase | result |
    +------+-----------+-------+------+-------+--------+

It stores 1 into `phase` where the measured part starts, the answer into `result`, then 2 into `phase`.
Read first: `data/programs/*.c`. Left out: the cost of translation, which is what `mmu` counts.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.errors import SizeError, UnknownNameError
from twofold.formats.workloads import EDGES
from twofold.kernels import requests, workloads
from twofold.trace import answers
from twofold.trace.zipf import DEFAULT_SKEW, zipf_table
from twofold.units import format_bytes

Gvas = npt.NDArray[np.uint64]
Generate = Callable[..., None]  # a kernel: (seed, base, footprint, start step, table of ranks if skewed, out_gvas)
Answer = Callable[[int, int, int, int], int]

AREA_BASE: Final = 1 << 42  # gva [bytes]: far from code and tables, in the lower half of every 4-level guest
AREA_BASE_32: Final = 1 << 30  # the same in 32-bit guests
STACK_BYTES: Final = 4096  # from the parameter block to the top of the stack that a program is given
MIN_FOOTPRINT: Final = 64 << 10  # [bytes]
MAX_SKEWED_FOOTPRINT: Final = 1 << 41  # [bytes]: 2**32 keys of kv
NODE_BYTES: Final = 64
PHASE_SETUP, PHASE_MEASURED, PHASE_DONE = range(3)
PHASE_OFFSET: Final = 32  # in the parameter block [bytes]
RESULT_OFFSET: Final = 40
PARAMETERS_BYTES: Final = 48
BLOCK_ACCESSES: Final = 1 << 20  # of a long trace that are in memory at a time
_MASK64: Final = 2**64 - 1
_SUFFIXES: Final = {64: ".elf", 32: ".i386.elf"}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One workload: its program, its addresses, its answer, and what an access is assumed to cost."""

    name: str
    title: str
    kinds: tuple[bool, ...]  # of the accesses of one step, in order; True is a store
    node_bytes: int  # alignment of what one step touches
    cycles_per_access: float  # apart from translation [cycles]
    assumption: str  # where that cost comes from
    generate: Generate
    compute_answer: Answer
    is_skewed: bool = False  # whether its addresses take a skew

    def as_dict(self) -> dict[str, Any]:
        """Return what people choose by, as JSON has it; a step is its accesses, "r" or "w" each."""
        words = {
            name: getattr(self, name) for name in ("name", "title", "cycles_per_access", "assumption", "is_skewed")
        }
        return words | {"step": "".join("w" if is_store else "r" for is_store in self.kinds)}

    @property
    def accesses_per_step(self) -> int:
        """Loads and stores of one step in the measured part."""
        return len(self.kinds)

    def addresses(
        self, seed: int, base: int, footprint: int, steps: int, start: int = 0, *, skew: float | None = None
    ) -> Gvas:
        """Return the gvas of the measured accesses of steps `start` to `start + steps - 1`.

        Parameters
        ----------
        seed : of the random numbers, taken modulo 2**64
        base : gva of the area [bytes]
        footprint : length of the area, a power of two of at least 64 KiB [bytes]
        steps, start : how many, and the first [steps]
        skew : of the keys, P(rank) ~ 1 / rank**skew; None: 0.99, which its program has

        Returns
        -------
        gvas : uint64[steps * accesses_per_step]; blocks joined are equal to one long run

        Raises
        ------
        SizeError : no such footprint, or no such skew
        """
        _check_footprint(footprint)
        tables = self._tables(footprint, skew)
        gvas = np.empty(steps * self.accesses_per_step, np.uint64)
        self.generate(np.uint64(seed & _MASK64), np.uint64(base), np.uint64(footprint), np.uint64(start), *tables, gvas)
        return gvas

    def _tables(self, footprint: int, skew: float | None) -> tuple[Gvas, ...]:
        """Return the table of ranks, for a generator that takes one."""
        if not self.is_skewed:
            if skew is not None:
                raise SizeError(str(skew), f"is no skew of {self.name}, which has no choice of it")
            return ()
        if footprint > MAX_SKEWED_FOOTPRINT:
            most = format_bytes(MAX_SKEWED_FOOTPRINT)
            raise SizeError(
                format_bytes(footprint), f"has more keys than {self.name} can draw; it takes {most} at most"
            )
        return (zipf_table(DEFAULT_SKEW if skew is None else skew),)

    def blocks(
        self, seed: int, base: int, footprint: int, accesses: int, *, skew: float | None = None
    ) -> Iterator[Gvas]:
        """Yield so many addresses from step 0 on, in blocks; the last step may be cut short. As `addresses`."""
        steps = max(1, BLOCK_ACCESSES // self.accesses_per_step)
        for start in range(0, -(-accesses // self.accesses_per_step), steps):
            left = accesses - start * self.accesses_per_step
            block_steps = min(steps, -(-left // self.accesses_per_step))
            yield self.addresses(seed, base, footprint, block_steps, start, skew=skew)[:left]

    def answer(self, seed: int, base: int, footprint: int, steps: int) -> int:
        """Return what the program must return; plain Python, O(steps) for most."""
        _check_footprint(footprint)
        return self.compute_answer(seed & _MASK64, base, footprint, steps)

    def parameters(self, seed: int, base: int, footprint: int, steps: int) -> bytes:
        """Return the parameter block to put before the program at its start."""
        _check_footprint(footprint)
        return struct.pack("<6Q", base, footprint, steps, seed & _MASK64, PHASE_SETUP, 0)

    def program(self, bits: int = 64) -> bytes:
        """Return the program, an ELF file. `bits` : 64 for x86-64, 32 for i386."""
        if bits not in _SUFFIXES:
            raise UnknownNameError("width of a program", str(bits), tuple(map(str, _SUFFIXES)))
        return (resources.files("twofold") / "data" / "programs" / f"{self.name}{_SUFFIXES[bits]}").read_bytes()


def get_workload(name: str) -> Workload:
    """Return the workload of this name; UnknownNameError says which there are."""
    if name not in tuple(WORKLOADS):  # by comparison: a list has no hash
        raise UnknownNameError("workload", name, tuple(WORKLOADS))
    return WORKLOADS[name]


def _check_footprint(footprint: int) -> None:
    """Refuse what the programs cannot mask an index with."""
    if footprint < MIN_FOOTPRINT or footprint & (footprint - 1):
        least = format_bytes(MIN_FOOTPRINT)
        raise SizeError(f"{footprint:#x}", f"is no footprint: a power of two of at least {least}")


_GUPS: Final = Workload(
    name="gups",
    title="random updates of a large table: a load and a store of a word drawn evenly",
    kinds=(False, True),
    node_bytes=8,
    cycles_per_access=30.0,
    assumption="updates are independent: 4 misses of some 250 cycles overlap, and the store hits its line",
    generate=workloads.generate_gups,
    compute_answer=answers.gups,
)
_CHASE: Final = Workload(
    name="chase",
    title="a linked list in random order: each load waits for the one before",
    kinds=(False,),
    node_bytes=NODE_BYTES,
    cycles_per_access=200.0,
    assumption="loads are dependent: each pays the whole latency of memory, some 60 ns at 3.5 GHz",
    generate=workloads.generate_chase,
    compute_answer=answers.chase,
)
_LOOKUP: Final = Workload(
    name="lookup",
    title="look-ups in a hash table with skewed keys: few slots hot, many cold",
    kinds=(False, False),
    node_bytes=NODE_BYTES,
    cycles_per_access=40.0,
    assumption="key and value share a line; hot slots hit the caches, cold misses overlap by two or three",
    generate=workloads.generate_lookup,
    compute_answer=answers.lookup,
)
_STREAM: Final = Workload(
    name="stream",
    title="every line of an area in sequence, around and around: a load and a store of its first word",
    kinds=(False, True),
    node_bytes=NODE_BYTES,
    cycles_per_access=8.0,
    assumption="prefetchers hide the latency: 64 bytes in and 64 out a line, at 8 bytes a cycle for one core",
    generate=workloads.generate_stream,
    compute_answer=answers.stream,
)

_SORT: Final = Workload(
    name="sort",
    title="a merge sort, run by run from memory to memory: two streams of loads, one of stores",
    kinds=(False, False, True),
    node_bytes=8,
    cycles_per_access=3.0,
    assumption="prefetchers follow the three streams; every other comparison is guessed wrong, some 18 cycles",
    generate=workloads.generate_sort,
    compute_answer=answers.sort,
)
_BFS: Final = Workload(
    name="bfs",
    title="breadth-first search of a graph with few vertices of many edges: a row, then distances all over",
    kinds=(False, False, True, *((False, False, True, True) * EDGES)),
    node_bytes=8,
    cycles_per_access=15.0,
    assumption="of four accesses an edge one is scattered; hot vertices hit the caches, the others overlap by eight",
    generate=workloads.generate_bfs,
    compute_answer=answers.bfs,
)
_MATMUL: Final = Workload(
    name="matmul",
    title="a product of two matrices in tiles of 32 x 32 words: rows far apart, all in the caches",
    kinds=(False, False, False, True),
    node_bytes=8,
    cycles_per_access=1.5,
    assumption="three tiles of 8 KiB stay in the L1 cache; two loads and a store a cycle at best, without vectors",
    generate=workloads.generate_matmul,
    compute_answer=answers.matmul,
)
_KV: Final = Workload(
    name="kv",
    title="a key-value store with Zipf keys: index, record, three lines of value, a line of log",
    kinds=(False, False, False, True, False, False, False, True),
    node_bytes=NODE_BYTES,
    cycles_per_access=40.0,
    assumption="as lookup: hot records hit the caches, cold misses overlap by two or three",
    generate=requests.generate_kv,
    compute_answer=answers.kv,
    is_skewed=True,
)
_WEB: Final = Workload(
    name="web",
    title="a web server: a connection, a session, eight lines of a file by Zipf, a line of log",
    kinds=(False, False, False, True, *(False,) * 8, True, True, True),
    node_bytes=NODE_BYTES,
    cycles_per_access=25.0,
    assumption="the lines of a file are prefetched after the first; connection and session miss and overlap",
    generate=requests.generate_web,
    compute_answer=answers.web,
    is_skewed=True,
)

WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType(
    {workload.name: workload for workload in (_GUPS, _CHASE, _LOOKUP, _STREAM, _SORT, _BFS, _MATMUL, _KV, _WEB)}
)
DEFAULT_WORKLOADS: Final = ("gups", "chase", "lookup", "stream")  # of a comparison
