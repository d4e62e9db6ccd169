"""Build the workload programs, and write down what they were built from and with.

    python tools/build_programs.py                  # into src/twofold/data/programs, beside the sources
    python tools/build_programs.py --output FOLDER  # elsewhere, to compare

The programs are kept in the repository: nobody needs a compiler to use them. `manifest.json` beside them
holds hashes of the sources and of the programs, the flags, and the versions of compiler and linker. The same
versions give the same bytes anywhere: no path, date or build id goes in.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

PROGRAMS: Final = Path(__file__).resolve().parent.parent / "src" / "twofold" / "data" / "programs"
COMMON_FLAGS: Final = (
    *("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"),
    *("-mgeneral-regs-only", "-ffreestanding", "-nostdlib"),
    *("-static", "-no-pie", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none"),
    # nothing beside the code: no unwind tables, no compiler name, no build id, no symbols
    *("-fno-asynchronous-unwind-tables", "-fno-ident", "-Wl,--build-id=none", "-s"),
    # a loop stays a loop: the library calls that it might become do not exist here
    "-fno-tree-loop-distribute-patterns",
    *("-Wl,-z,max-page-size=4096", "-Wl,-z,noexecstack"),
)
FLAGS_64: Final = (
    "-march=x86-64",
    # no stack: a program has no caller whose registers it must save, and hoisted constants would spill
    *("-ffixed-rbp", "-fcall-used-rbx", "-fcall-used-r12", "-fcall-used-r13", "-fcall-used-r14"),
    *("-fcall-used-r15", "-fno-move-loop-invariants", "-fno-tree-loop-im"),
    *("-fno-tree-pre", "-fno-gcse", "-fno-ivopts"),
)
FLAGS_32: Final = ("-m32", "-march=i686", "-mpreferred-stack-boundary=2")
# What each kind of program ends in, and what it is built with.
KINDS: Final = {".elf": COMMON_FLAGS + FLAGS_64, ".i386.elf": COMMON_FLAGS + FLAGS_32}


def version_of(tool: str) -> str | None:
    """Return the first line of what a tool says about its version; None where it is not installed."""
    try:
        said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    except FileNotFoundError:
        return None
    return said.stdout.splitlines()[0]


def sha256_of(path: Path) -> str:
    """Return the hash of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_paths() -> list[Path]:
    """Return every file that the programs are built from."""
    return sorted(path for path in PROGRAMS.iterdir() if path.suffix in {".c", ".h", ".ld"})


def build_program(source: Path, output: Path, suffix: str) -> Path:
    """Compile and link one program into a folder; return its path. `suffix` : which of `KINDS`."""
    program = output / f"{source.stem}{suffix}"
    script = PROGRAMS / "program.ld"
    subprocess.run(["gcc", *KINDS[suffix], "-T", script, "-o", program, source], check=True)  # noqa: S603, S607 our own
    program.chmod(0o644)  # it is data: no host should run it
    return program


def manifest_of(programs: list[Path]) -> dict[str, object]:
    """Return what stands in the manifest: hashes by file name, flags, versions."""
    return {
        "compiler": version_of("gcc"),
        "linker": version_of("ld"),
        "flags": KINDS,
        "sources": {path.name: sha256_of(path) for path in source_paths()},
        "programs": {path.name: sha256_of(path) for path in programs},
    }


def main() -> None:
    """Build all programs and the manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=PROGRAMS, help="folder to build into")
    output: Path = parser.parse_args().output
    if version_of("gcc") is None or version_of("ld") is None:
        sys.exit("building the programs needs gcc and ld (GNU binutils); neither is needed to use them")
    sources = [path for path in source_paths() if path.suffix == ".c"]
    programs = [build_program(source, output, suffix) for suffix in KINDS for source in sources]
    text = json.dumps(manifest_of(programs), indent=2) + "\n"
    (output / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
