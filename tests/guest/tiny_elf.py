"""ELF files made by hand, byte by byte, for the tests of loading and running."""

import struct

ENTRY = 0x400000
HALT = b"\xf4"
LOAD_RDI = bytes.fromhex("488b07")  # mov rax, [rdi]
SPIN = bytes.fromhex("ebfe")  # jmp to itself
ELF_BYTES, PROGRAM_HEADER_BYTES = 64, 56


def elf(*segments, entry=ENTRY):
    """Return a static x86-64 ELF of segments (gva, bytes) or (gva, bytes, length in memory)."""
    start = ELF_BYTES + PROGRAM_HEADER_BYTES * len(segments)
    headers, body = b"", b""
    for gva, data, *length in segments:
        place = (start + len(body), gva, gva, len(data), *(length or [len(data)]))
        headers += struct.pack("<II6Q", 1, 7, *place, 0x1000)
        body += data
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    tail = (ELF_BYTES, 0, 0, ELF_BYTES, PROGRAM_HEADER_BYTES, len(segments), 0, 0, 0)
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, *tail) + headers + body


def code(*parts):
    """Return an ELF whose one segment at the entry is this machine code."""
    return elf((ENTRY, b"".join(parts)))


def load_from(gva):
    """Return code that loads 8 bytes from an absolute gva into rax."""
    return b"\x48\xa1" + struct.pack("<Q", gva)


def jump_to(gva):
    """Return code that jumps to an absolute gva."""
    return b"\x48\xb8" + struct.pack("<Q", gva) + b"\xff\xe0"


def finish_with_rax():
    """Return code that stores rax as the result of the parameter block, says that it is done, and halts."""
    store = bytes.fromhex("48894728")  # mov [rdi+40], rax
    done = bytes.fromhex("48c7472002000000")  # mov qword [rdi+32], 2
    return store + done + HALT
