"""What a journal may not ask of the machine that it is replayed on.

A few operations trust their caller: a program that frees memory which something else uses, or maps a page table into a
guest and lets the guest write to it, breaks its own machine, and kernels then run on nonsense. A journal may come from
anywhere, so before such an operation the guard looks whether a sound program could have asked for it. It remembers
which memory the journal itself took from the heap and has not given back: nothing else is the journal's to free.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twofold.domain.machine import Machine
from twofold.machine import Origin, Use
from twofold.machine.arena import sparse_array
from twofold.machine.journal_reader import Call
from twofold.p2m.ranges import Ranges, every_gfn
from twofold.units import FRAME_SHIFT, MAX_HEAP_ORDER

Array = npt.NDArray[np.uint64]
_MOST_BITS: Final = 1 << 12  # of an order or an address: 2 to the power of a large number fills any memory
_POWERS: Final = ("order", "bits")


class ReplayGuard:
    """Watches over the replay on one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._held = sparse_array(machine.frames, np.uint8)  # 1: the journal took it from the heap itself
        self._checks = {
            ("Heap", "free"): self._free_refusal,
            ("Heap", "free_runs"): self._free_runs_refusal,
            ("P2M", "move"): self._move_refusal,
            ("Arena", "write"): self._arena_refusal,
            ("Domain", "write"): self._write_refusal,
            ("Domain", "wipe"): self._wipe_refusal,
            ("WriteDoor", "_store_frames"): self._door_refusal,
            ("WriteDoor", "_store_entries"): self._door_refusal,
            ("WriteDoor", "zero_frames"): self._door_refusal,
            ("WriteDoor", "wipe"): self._door_refusal,
        }

    def refusal(self, call: Call, arguments: Mapping[str, Any] | None) -> str:
        """Return why an operation is not done; empty when it is.

        Parameters
        ----------
        arguments : all that it takes, by name, defaults too; None when it cannot be called with what there is
        """
        if arguments is None:
            return ""
        for name, value in arguments.items():
            powers = [value.address_bits] if isinstance(value, Origin) else [value] if name.endswith(_POWERS) else []
            if any(isinstance(each, int | np.integer) and each > _MOST_BITS for each in powers):
                return f"{name} is {value}"
        domain = self._machine.domains.get(call.domid)
        if domain is not None and domain.is_dying:
            return ""  # the domain refuses it itself, whatever it is about
        check = self._checks.get((call.target, call.method))
        return check(call, arguments) if check else ""

    def note(self, call: Call, arguments: Mapping[str, Any], answer: Any) -> None:
        """Remember what an operation that has succeeded took from the heap, or gave away."""
        method = call.target, call.method
        if method == ("Heap", "alloc"):
            self._mark(int(answer), 1 << int(arguments["order"]), 1)
        elif method == ("Heap", "alloc_runs"):
            for mfn, extents in zip(*(part.tolist() for part in answer), strict=True):
                self._mark(mfn, extents << int(arguments["order"]), 1)
        elif method in {("Heap", "free"), ("P2M", "move")}:
            self._mark(int(arguments["mfn"]), 1 << int(arguments["order"]), 0)
        elif method == ("Heap", "free_runs"):
            for mfn, frames in zip(arguments["mfns"].tolist(), arguments["frames"].tolist(), strict=True):
                self._mark(mfn, frames, 0)

    def _mark(self, mfn: int, frames: int, value: int) -> None:
        self._held[mfn : mfn + frames] = value

    def _free_refusal(self, _: Call, arguments: Mapping[str, Any]) -> str:
        block = self._block(arguments)
        if block is None or self._holds(block.start, len(block)):
            return ""  # nonsense is refused by the heap itself, and so is what is free already
        # One is free when a free block begins among them, or reaches into them.
        if self._machine.heap.orders[block.start : block.stop].any() or self._machine.heap.is_free(block.start):
            return ""
        return f"mfn {block.start:#x} is not the journal's to free"

    def _free_runs_refusal(self, _: Call, arguments: Mapping[str, Any]) -> str:
        mfns, frames = arguments["mfns"], arguments["frames"]
        if not _is_words(mfns) or not _is_words(frames) or mfns.shape != frames.shape:
            return "its runs are no arrays of frames"
        end = 0
        for mfn, length in sorted(zip(mfns.tolist(), frames.tolist(), strict=True)):
            if mfn < end or not self._holds(mfn, length):
                return f"mfn {mfn:#x} + {length} frames is not the journal's to free"
            end = mfn + length
        return ""

    def _move_refusal(self, _: Call, arguments: Mapping[str, Any]) -> str:
        """Refuse frames that are in use although nobody owns them."""
        block = self._block(arguments)
        if block is None:
            return ""
        frames = slice(block.start, block.stop)
        suspicious = np.flatnonzero((self._held[frames] == 0) & (self._machine.frame_table.owner[frames] == 0))
        if all(self._machine.heap.is_free(block[each]) for each in suspicious.tolist()):
            return ""
        return f"mfn {block.start:#x} was not allocated for it"

    def _arena_refusal(self, _: Call, arguments: Mapping[str, Any]) -> str:
        maddr, data = arguments["maddr"], arguments["data"]
        if not isinstance(maddr, int | np.integer) or not isinstance(data, bytes | np.ndarray) or not len(data):
            return ""
        first, last = int(maddr) >> FRAME_SHIFT, int(maddr) + len(data) - 1 >> FRAME_SHIFT
        if not 0 <= first <= last < self._machine.frames:
            return ""  # the arena refuses it itself
        return self._tables_refusal(np.arange(first, last + 1, dtype=np.uint64))

    def _write_refusal(self, call: Call, arguments: Mapping[str, Any]) -> str:
        gpa, data, p2m = arguments["gpa"], arguments["data"], self._machine.domains[call.domid].p2m
        if not isinstance(gpa, int | np.integer) or not isinstance(data, bytes | np.ndarray) or not len(data):
            return ""
        first, last = int(gpa) >> FRAME_SHIFT, int(gpa) + len(data) - 1 >> FRAME_SHIFT
        if not 0 <= first <= last < p2m.geometry.frame_limit:
            return ""  # nothing is mapped there
        return self._tables_refusal(p2m.translate(np.arange(first, last + 1, dtype=np.uint64)))

    def _door_refusal(self, call: Call, arguments: Mapping[str, Any]) -> str:
        gfns, frames = arguments["gfns"], arguments.get("frames", np.ones(0, np.uint64))
        if not _is_words(gfns) or not _is_words(frames):
            return "its gfns are no array of frames"
        lengths = frames.tolist()
        if sum(lengths) > self._machine.frames or (lengths and len(lengths) != len(gfns)):
            return "its ranges are more than the machine has"
        if lengths:
            gfns = every_gfn(Ranges(gfns, frames))
        return self._tables_refusal(self._machine.domains[call.domid].p2m.translate(gfns))

    def _wipe_refusal(self, call: Call, arguments: Mapping[str, Any]) -> str:  # noqa: ARG002  as the others
        p2m = self._machine.domains[call.domid].p2m
        _, mfns, lengths = p2m.runs(0, p2m.max_gfn)
        for mfn, length in zip(mfns.tolist(), lengths.tolist(), strict=True):
            if (self._machine.frame_table.use[mfn : mfn + length] == Use.TABLES).any():
                return f"mfn {mfn:#x} + {length} frames holds page tables"
        return ""

    def _tables_refusal(self, mfns: Array) -> str:
        real = mfns[mfns < np.uint64(self._machine.frames)].astype(np.int64)  # neither holes nor a device's
        in_tables = real[self._machine.frame_table.use[real] == Use.TABLES]
        return f"mfn {int(in_tables[0]):#x} holds page tables" if in_tables.size else ""

    def _block(self, arguments: Mapping[str, Any]) -> range | None:
        """Return the frames that `mfn` and `order` are about, None when there are none such in the machine."""
        mfn, order = arguments["mfn"], arguments["order"]
        if not isinstance(mfn, int | np.integer) or not isinstance(order, int | np.integer):
            return None
        if not 0 <= order <= MAX_HEAP_ORDER or not 0 <= mfn < self._machine.frames:
            return None
        block = range(int(mfn), int(mfn) + (1 << int(order)))
        return block if block.stop <= self._machine.frames else None

    def _holds(self, mfn: int, frames: int) -> bool:
        """Return whether the journal took all of a run from the heap, and gave none of it back."""
        return 0 <= mfn <= self._machine.frames - frames and bool(self._held[mfn : mfn + frames].all())


def _is_words(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint64 and value.ndim == 1
