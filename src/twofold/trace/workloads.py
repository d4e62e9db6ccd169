"""The built-in workloads: four programs, and the same sequences of addresses from a generator.

A workload exists twice. Its *program* is machine code that an engine executes in a guest: the truth, short.
Its *addresses* come from a kernel: the same measured accesses in the same order, as long as one likes. A test
holds the two equal. Its *answer* is what the program must return, computed here without running it.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from twofold.errors import SizeError, UnknownNameError
from twofold.kernels import workloads as kernels
from twofold.spec.workloads import GOLDEN, MULTIPLIER, log2_of, lookup_rank, random64
from twofold.units import format_bytes

Gvas = npt.NDArray[np.uint64]
Generator = Callable[[np.uint64, np.uint64, np.uint64, np.uint64, Gvas], None]
Answer = Callable[[int, int, int, int], int]

AREA_BASE: Final = 1 << 42  # gva [bytes]: far from code and tables, in the lower half of every 4-level guest
AREA_BASE_32: Final = 1 << 30  # the same in 32-bit guests
STACK_BYTES: Final = 4096  # from the parameter block to the top of the stack that an i386 program is given
MIN_FOOTPRINT: Final = 64 << 10  # [bytes]
NODE_BYTES: Final = 64
PHASE_SETUP, PHASE_MEASURED, PHASE_DONE = range(3)
PHASE_OFFSET: Final = 32  # in the parameter block [bytes]
RESULT_OFFSET: Final = 40
PARAMETERS_BYTES: Final = 48
_MASK64: Final = 2**64 - 1
_SUFFIXES: Final = {64: ".elf", 32: ".i386.elf"}


@dataclass(frozen=True)
class Workload:
    """One workload: its program, its addresses, its answer, and what an access is assumed to cost."""

    name: str
    title: str
    kinds: tuple[bool, ...]  # of the accesses of one step, in order; True is a store
    node_bytes: int  # alignment of what one step touches
    cycles_per_access: float  # apart from translation [cycles]
    assumption: str  # where that cost comes from
    generate: Generator
    compute_answer: Answer

    @property
    def accesses_per_step(self) -> int:
        """Loads and stores of one step in the measured part."""
        return len(self.kinds)

    def addresses(self, seed: int, base: int, footprint: int, steps: int, start: int = 0) -> Gvas:
        """Return the gvas of the measured accesses of steps `start` to `start + steps - 1`.

        Parameters
        ----------
        seed : of the random numbers, taken modulo 2**64
        base : gva of the area [bytes]
        footprint : length of the area, a power of two of at least 64 KiB [bytes]
        steps, start : how many, and the first [steps]

        Returns
        -------
        gvas : uint64[steps * accesses_per_step]; blocks joined are equal to one long run

        Raises
        ------
        SizeError : no such footprint
        """
        _check_footprint(footprint)
        gvas = np.empty(steps * self.accesses_per_step, np.uint64)
        self.generate(np.uint64(seed & _MASK64), np.uint64(base), np.uint64(footprint), np.uint64(start), gvas)
        return gvas

    def answer(self, seed: int, base: int, footprint: int, steps: int) -> int:
        """Return what the program must return; plain Python, O(steps) for gups and lookup."""
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
    if name not in WORKLOADS:
        raise UnknownNameError("workload", name, tuple(WORKLOADS))
    return WORKLOADS[name]


def _check_footprint(footprint: int) -> None:
    """Refuse what the programs cannot mask an index with."""
    if footprint < MIN_FOOTPRINT or footprint & (footprint - 1):
        least = format_bytes(MIN_FOOTPRINT)
        raise SizeError(f"{footprint:#x}", f"is no footprint: a power of two of at least {least}")


def _answer_gups(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the rotated sum of all words stored, with a dict as the table."""
    shift = 64 - log2_of(footprint // 8)
    table: dict[int, int] = {}
    total = 0
    for step in range(steps):
        x = random64(seed, step)
        updated = table.get(x >> shift, 0) ^ x
        table[x >> shift] = updated
        total = ((total << 1 | total >> 63) + updated) & _MASK64
    return total


def _answer_chase(seed: int, base: int, footprint: int, steps: int) -> int:
    """Return the gva where the chain ends: a**n * x + c * (a**n - 1) / (a - 1), modulo the nodes.

    The power is taken modulo (a - 1) times the nodes, so that the division is exact.
    """
    nodes = footprint // NODE_BYTES
    first, increment = random64(seed, 0), random64(seed, 1) | 1
    power = pow(MULTIPLIER, steps, (MULTIPLIER - 1) * nodes)
    last = (power * first + (power - 1) // (MULTIPLIER - 1) * increment) % nodes
    return base + last * NODE_BYTES


def _answer_lookup(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the sum of the values of all ranks asked for; where they are stored does not matter."""
    octaves = log2_of(footprint // NODE_BYTES)
    ranks = (lookup_rank(random64(seed, step), octaves) for step in range(steps))
    return sum(rank * GOLDEN & _MASK64 ^ seed for rank in ranks) & _MASK64


def _answer_stream(seed: int, _base: int, footprint: int, steps: int) -> int:
    """Return the sum of all words stored, in closed form.

    Line k of n holds (lap + 1) * (k + seed) + n * lap * (lap + 1) / 2 after lap `lap`: each lap adds its step
    number, k + n * lap, and the seed. Summed over all lines of whole laps, then over those of the last lap.
    """
    lines = footprint // NODE_BYTES
    laps, rest = divmod(steps, lines)
    whole = laps * (laps + 1) // 2 * _sum_of_lines(lines, seed) + lines**2 * ((laps - 1) * laps * (laps + 1) // 6)
    last = (laps + 1) * _sum_of_lines(rest, seed) + rest * lines * (laps * (laps + 1) // 2)
    return (whole + last) & _MASK64


def _sum_of_lines(lines: int, seed: int) -> int:
    """Return the sum of k + seed over the first lines."""
    return lines * (lines - 1) // 2 + lines * seed


_GUPS: Final = Workload(
    name="gups",
    title="random updates of a large table: a load and a store of a word drawn evenly",
    kinds=(False, True),
    node_bytes=8,
    cycles_per_access=30.0,
    assumption="updates are independent: 4 misses of some 250 cycles overlap, and the store hits its line",
    generate=kernels.generate_gups,
    compute_answer=_answer_gups,
)
_CHASE: Final = Workload(
    name="chase",
    title="a linked list in random order: each load waits for the one before",
    kinds=(False,),
    node_bytes=NODE_BYTES,
    cycles_per_access=200.0,
    assumption="loads are dependent: each pays the whole latency of memory, some 60 ns at 3.5 GHz",
    generate=kernels.generate_chase,
    compute_answer=_answer_chase,
)
_LOOKUP: Final = Workload(
    name="lookup",
    title="look-ups in a hash table with skewed keys: few slots hot, many cold",
    kinds=(False, False),
    node_bytes=NODE_BYTES,
    cycles_per_access=40.0,
    assumption="key and value share a line; hot slots hit the caches, cold misses overlap by two or three",
    generate=kernels.generate_lookup,
    compute_answer=_answer_lookup,
)
_STREAM: Final = Workload(
    name="stream",
    title="every line of an area in sequence, around and around: a load and a store of its first word",
    kinds=(False, True),
    node_bytes=NODE_BYTES,
    cycles_per_access=8.0,
    assumption="prefetchers hide the latency: 64 bytes in and 64 out a line, at 8 bytes a cycle for one core",
    generate=kernels.generate_stream,
    compute_answer=_answer_stream,
)

WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType(
    {workload.name: workload for workload in (_GUPS, _CHASE, _LOOKUP, _STREAM)}
)
