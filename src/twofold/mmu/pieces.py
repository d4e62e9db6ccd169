"""A long trace in pieces, one for each thread, and exact all the same.

What a set of true LRU holds depends on its last few tags alone. So a thread that begins inside the trace first runs
some accesses before its piece, from empty structures; mostly they then hold what they would after the whole trace. That
is not hoped but checked, when the piece before it is done: a set that began as the front part of the true one, and took
in nothing while it was not full, gave the hits and misses of the true one. A piece that does not pass is run again
from the true state; so what is counted and left is that of one thread, bit for bit, and only the time may be lost.

The L3 cache of lines is too large to warm up, but nothing comes after it: it begins empty, and what came to a lane for
the first time is looked up later in what the true set held. So that is always exact.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from twofold.formats import mmu_state as at
from twofold.formats.arrays import Counts, Halves, Words
from twofold.formats.operands import Caches
from twofold.mmu.block_simulator import BlockSimulator

LEAST_PIECE: Final = 1 << 18  # accesses: what comes before and after it would take longer than a smaller one
WARMUP: Final = 1 << 16  # accesses, twice before a piece; or more: a part of what a long piece has
WARMUP_SHARE: Final = 32


class Piece(NamedTuple):
    """What a piece counted, from a state that is assumed, and the state that it ended in.

    first_lines : uint32, lines that came to the L3 cache where nothing was yet, in order
    """

    counters: Counts
    begin: Caches
    end: Caches
    first_lines: Halves


def run_in_pieces(simulators: list[BlockSimulator], gvas: Words, counters: Counts) -> int:
    """Access every address of a trace of loads in order, a piece on each simulator; return how many were done.

    simulators : the first has the true state, as rows, and keeps it; the others have arrays of their own
    """
    first = simulators[0]
    before = first.state()
    bounds = _bounds(len(gvas), len(simulators))
    with ThreadPoolExecutor(len(simulators) - 1) as pool:
        others: list[Future[Piece | None]] = [
            pool.submit(_run_piece, simulator, gvas, start, end)
            for simulator, (start, end) in zip(simulators[1:], pairwise(bounds[1:]), strict=True)
        ]
        done = first.go_on(gvas[: bounds[1]], counters)
    if done < bounds[1]:
        return done
    first.give()
    for other, (start, end) in zip(others, pairwise(bounds[1:]), strict=True):
        piece = other.result()
        if piece is None or not _follow(first, piece, counters):
            done = _run_again(first, gvas[start:end], counters)
            if done < end - start:
                first.set(before)
                return start + done
    return len(gvas)


def _bounds(accesses: int, pieces: int) -> list[int]:
    """Return where pieces begin, and the end; the first is longer by what the others spend to warm up."""
    each = (accesses - 2 * warmup_of(accesses // pieces)) // pieces
    return [0, *(accesses - each * number for number in range(pieces - 1, -1, -1))]


def warmup_of(accesses: int) -> int:
    """Return how many accesses warm up for a piece, twice, so that they are never more than a quarter of it."""
    return max(accesses // WARMUP_SHARE, min(accesses // 8, WARMUP))


def _follow(simulator: BlockSimulator, piece: Piece, counters: Counts) -> bool:
    """Take up what a piece counted and left, from the true state in the arrays; return False where that may not be."""
    state = end_of(piece, simulator.state(), simulator.owners)
    if state is None:
        return False
    counters += piece.counters
    found = simulator.find_lines(piece.first_lines)
    counters[at.SERVED + 1] += found
    counters[at.SERVED + 2] -= found
    counters[at.WALK_CYCLES] += found * (simulator.read_cycles(1) - simulator.read_cycles(2))
    simulator.set(state)
    return True


def _run_again(simulator: BlockSimulator, gvas: Words, counters: Counts) -> int:
    """Run a piece from the true state, which is in the arrays of a simulator and comes back there."""
    done = simulator.go_on(gvas, counters) if simulator.take() else 0
    if done == len(gvas):
        simulator.give()
    return done


def _run_piece(simulator: BlockSimulator, gvas: Words, start: int, end: int) -> Piece | None:
    """Run the accesses from `start` to `end`; return None where one of them, or one before, has no translation."""
    steps = warmup_of(end - start)
    unused, counters = np.zeros(at.COUNTERS, np.int64), np.zeros(at.COUNTERS, np.int64)
    simulator.clear()
    # First the TLBs: what misses them while they are cold would leave traces in the structures that walks use.
    if simulator.go_on(gvas[start - 2 * steps : start - steps], unused) < steps:
        return None
    simulator.empty_from(at.GUEST_TABLES)
    if simulator.go_on(gvas[start - steps : start], unused) < steps:
        return None
    simulator.empty_lines()
    simulator.give()
    begin = simulator.state()
    if simulator.go_on(gvas[start:end], counters) < end - start:
        return None
    simulator.give()
    return Piece(counters, begin, simulator.state(), simulator.first_lines())


def end_of(piece: Piece, true: Caches, owners: list[int]) -> Caches | None:
    """Return the state behind a piece that in truth began with another one than assumed, None when that is not certain.

    true : the state where the piece begins
    owners : numbers of the structures whose sets lie apart
    """
    begin, end = piece.begin, piece.end
    merged = true.copy()
    for number in owners:
        started, kept, left = (_sets(state.structures[number], state.tags) for state in (begin, true, end))
        target = _sets(true.structures[number], merged.tags)
        if number == at.L3_LINES:
            target[...] = _filled_up(left, kept)
            continue
        is_front = (started == 0) | (started == kept)
        has_taken_in = (started == 0) & (left != 0)
        if not is_front.all() or has_taken_in.any():
            return None
        np.copyto(target, left, where=left != 0)
        if number != at.L2_LINES:  # lines have no values
            values = _sets(end.structures[number], end.values)
            np.copyto(_sets(true.structures[number], merged.values), values, where=left != 0)
    merged.structures[:, at.INSERTED] += end.structures[:, at.INSERTED] - begin.structures[:, at.INSERTED]
    return merged


def _filled_up(rows: Words, older: Words) -> Words:
    """Return sets, newest entry first, with room in them filled by what sets of an older time have beside it."""
    is_new = (older != 0) & ~(older[:, :, None] == rows[:, None, :]).any(axis=2)
    both, is_there = np.hstack([rows, older]), np.hstack([rows != 0, is_new])
    order = np.argsort(~is_there, axis=1, kind="stable")[:, : rows.shape[1]]
    return np.take_along_axis(np.where(is_there, both, 0), order, axis=1).astype(np.uint64)


def _sets(structure: Counts, entries: Words) -> Words:
    """Return the entries of a structure, a row for each set, newest first; a view."""
    first, sets, ways, stride = (int(structure[column]) for column in (at.OFFSET, at.SETS, at.WAYS, at.STRIDE))
    return entries[first : first + sets * stride].reshape(sets, stride)[:, :ways]
