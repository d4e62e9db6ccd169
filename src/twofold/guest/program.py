"""Guest programs: static x86-64 or i386 ELF files, the built-in ones or a user's own.

A file is read as untrusted: every offset and length is checked before anything is mapped.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile

from twofold.errors import FormatError
from twofold.files import as_path, read_bounded
from twofold.trace import AREA_BASE_32, WORKLOADS, get_workload
from twofold.units import FRAME_BYTES, parse_bytes

MAX_FILE_BYTES: Final = 16 << 20
MAX_SEGMENTS: Final = 64
MAX_IMAGE_BYTES: Final = 16 << 20
MAX_GVA: Final = {64: 1 << 40, 32: AREA_BASE_32}  # below the area, in the lower half
LONG_BITS: Final = 64
_WIDTHS: Final = {"x64": LONG_BITS, "x86": 32}


@dataclass(frozen=True)
class Segment:
    """Bytes to put at a gva; `length` counts the zeros behind them too."""

    gva: int
    data: bytes
    length: int


@dataclass(frozen=True)
class Program:
    """What a guest executes.

    Parameters
    ----------
    name : the workload, or the file
    elf : the bytes of the ELF file
    footprint : the area it works in, a power of two; None: the guest's whole area
    steps : units of work: updates, hops, lookups, lines
    seed : of its random numbers; None: the machine's
    """

    name: str
    elf: bytes
    footprint: int | str | None = None
    steps: int = 10_000
    seed: int | None = None

    @classmethod
    def workload(
        cls,
        name: str,
        footprint: int | str | None = None,
        steps: int = 10_000,
        seed: int | None = None,
        bits: int = LONG_BITS,
    ) -> "Program":
        """Return one of the built-in workloads. `bits` : 64, or 32 for guests in PAE or 2-level mode."""
        return cls(name, get_workload(name).program(bits), footprint, steps, seed)

    @classmethod
    def from_file(
        cls, path: str | Path, footprint: int | str | None = None, steps: int = 10_000, seed: int | None = None
    ) -> "Program":
        """Return a program from an ELF file that keeps the contract of docs/programs.md."""
        data = read_bounded(as_path(path), MAX_FILE_BYTES)
        return cls(str(path), data, footprint, steps, seed)

    @classmethod
    def of(cls, program: "Program | str | Path", bits: int = LONG_BITS) -> "Program":
        """Return a program that may be given by the name of a workload, or as an ELF file.

        bits : of the guest that runs it

        Raises
        ------
        UnknownNameError : no workload has that name, and no file
        TypeError : it is none of the three
        """
        if isinstance(program, Program):
            return program
        if isinstance(program, str) and (program in WORKLOADS or not Path(program).exists()):
            return cls.workload(program, bits=bits)
        return cls.from_file(program)

    def area_bytes(self, guest_footprint: int) -> int:
        """Return the footprint that the program is told [bytes]."""
        return guest_footprint if self.footprint is None else parse_bytes(self.footprint)

    @property
    def bits(self) -> int:
        """Width of the code: 64 for x86-64, 32 for i386.

        Raises
        ------
        FormatError : neither
        """
        try:
            return _WIDTHS[ELFFile(io.BytesIO(self.elf)).get_machine_arch()]
        except Exception:  # noqa: BLE001  pyelftools raises whatever its parsers do on a hostile file
            raise FormatError(self.name, "is no static x86-64 or i386 executable") from None

    def image(self) -> tuple[int, tuple[Segment, ...]]:
        """Return (entry gva, segments).

        Raises
        ------
        FormatError : no static x86-64 ELF, or one whose segments cannot be loaded
        """
        try:
            return self._parse()
        except FormatError:
            raise
        except Exception as error:  # noqa: BLE001  pyelftools raises whatever its parsers do on a hostile file
            raise FormatError(self.name, f"is no ELF file that can be read: {error}") from None

    def _parse(self) -> tuple[int, tuple[Segment, ...]]:
        elf = ELFFile(io.BytesIO(self.elf))
        if elf.get_machine_arch() not in _WIDTHS or elf.header["e_type"] != "ET_EXEC":
            raise FormatError(self.name, "is no static x86-64 or i386 executable")
        if elf.num_segments() > MAX_SEGMENTS:
            raise FormatError(self.name, f"has more than {MAX_SEGMENTS} segments")
        headers = [part.header for part in elf.iter_segments() if part.header["p_type"] == "PT_LOAD"]
        segments = tuple(self._segment(header) for header in headers if header["p_memsz"])
        if not segments or sum(part.length for part in segments) > MAX_IMAGE_BYTES:
            raise FormatError(self.name, f"has nothing to load, or more than {MAX_IMAGE_BYTES >> 20} MiB")
        return int(elf.header["e_entry"]), segments

    def _segment(self, header: Mapping[str, int]) -> Segment:
        gva, offset = header["p_vaddr"], header["p_offset"]
        stored, length = header["p_filesz"], header["p_memsz"]
        if offset + stored > len(self.elf) or stored > length:
            raise FormatError(self.name, f"has a segment at gva {gva:#x} that reaches beyond the file")
        if gva < FRAME_BYTES or gva + length > MAX_GVA[self.bits] or length > MAX_IMAGE_BYTES:
            raise FormatError(self.name, f"has a segment at gva {gva:#x} outside what a program may use")
        return Segment(gva, self.elf[offset : offset + stored], length)
