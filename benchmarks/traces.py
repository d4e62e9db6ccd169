"""Print what reading traces costs: our own file against the same accesses from memory, and other tools' formats.

Each pair is measured in turn, in one process, the best of several rounds counts: ratios carry over to other machines.
The file is in the kernel's page cache, as one that was just written is. Run it on a quiet machine.
Usage: python benchmarks/traces.py [MILLIONS OF ACCESSES]
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import twofold as tf
from twofold.study import workload_trace
from twofold.trace import open_reader
from twofold.trace.trace import BLOCK_ACCESSES

ROUNDS = 5
TEXT_BYTES = 64 << 20
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "traces"
WORKLOADS = {"stream": "8GiB", "gups": "8GiB", "lookup": "8GiB", "chase": "512MiB"}
TEXTS = {  # sample: lines at its start that stand there once only
    "lackey.txt": 6,
    "drmemtrace.txt": 10,
    "execlog.txt": 0,
    "perf_script.txt": 0,
    "perf_mem_commas.txt": 1,
    "gem5_packets.txt": 0,
    "gem5_exec.txt": 0,
    "accesses.csv": 1,
}

Gvas = npt.NDArray[np.uint64]


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(*works: Callable[[], object]) -> list[float]:
    """Return the best time of each work, all of them done in turn."""
    rounds = [[seconds(work) for work in works] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def in_blocks(gvas: Gvas) -> Iterable[Gvas]:
    """Yield an array in blocks of the length that a file is read in."""
    return (gvas[start : start + BLOCK_ACCESSES] for start in range(0, len(gvas), BLOCK_ACCESSES))


def touch(blocks: Iterable[Gvas]) -> int:
    """Read every address once, and do as little with it as one can."""
    return sum(int(block.max()) for block in blocks)


def own_format(folder: Path, accesses: int) -> None:
    """Compare a simulation of a file with one of the same accesses in memory."""
    print(f"own format, {accesses / 1e6:g} M accesses: rates [M accesses/s] and file / memory")
    for name, footprint in WORKLOADS.items():
        with tf.Machine("16GiB") as machine:
            domain = machine.create_domain("12GiB")
            tf.build(domain, "small")
            guest = tf.Guest(domain, footprint=footprint)
            gvas = np.concatenate(list(workload_trace(tf.get_workload(name), 0, guest.footprint, accesses)))
            kinds = np.resize(np.array(tf.get_workload(name).kinds, np.uint8), len(gvas))
            compare_file(name, folder / f"{name}.twotrace", gvas, kinds, guest)


def compare_file(name: str, path: Path, gvas: Gvas, kinds: npt.NDArray[np.uint8], guest: tf.Guest) -> None:
    """Print the rates of one workload from memory and from a file; its guest is overwritten."""
    written = seconds(lambda: tf.Trace.of(gvas, kinds=kinds).save(path))
    trace = tf.Trace.load(path)
    assert tf.simulate(trace, guest) == tf.simulate(gvas, guest)
    whole, blocks, file, checked = best(
        lambda: tf.simulate(gvas, guest),
        lambda: tf.simulate(iter(in_blocks(gvas)), guest),
        lambda: tf.simulate(trace, guest),
        lambda: tf.simulate(trace.verified(), guest),
    )
    memory, mapped = best(lambda: touch(in_blocks(gvas)), lambda: touch(trace.gvas()))
    rates = " ".join(f"{len(gvas) / each / 1e6:8.1f}" for each in (whole, blocks, file))
    print(
        f"  {name:8} memory, in blocks, file: {rates}   ratio {whole / file:.2f}   "
        f"(reading alone {memory / mapped:.2f}, writing {len(gvas) / written / 1e6:.0f})"
    )
    plain, priced = best(  # what `twofold simulate` does, its machine and domain apart
        lambda: tf.simulate(gvas, tf.TraceGuest(guest.domain, in_blocks(gvas))),
        lambda: tf.simulate(trace, tf.TraceGuest(guest.domain, trace.verified())),
    )
    print(
        f"  {'':8} checksums compared beside the model {whole / checked:.2f}, "
        f"while the guest is made, that included {plain / priced:.2f}"
    )
    path.unlink()


def count(path: Path) -> int:
    """Read a trace to its end; return its accesses."""
    return sum(map(len, open_reader(path).blocks()))


def other_formats(folder: Path) -> None:
    """Print how fast each format is read, beside reading its bytes."""
    print("other formats: [M accesses/s], [MB/s]")
    for name, once in TEXTS.items():
        lines = [
            line for line in (GOLDEN / name).read_bytes().splitlines(keepends=True) if not line.startswith(b"View")
        ]
        body = b"".join(line for line in lines[once:] if b": total" not in line and not line.startswith(b"=="))
        path = folder / name
        path.write_bytes(b"".join(lines[:once]) + body * (TEXT_BYTES // len(body)))
        report(name, path)
    record = (GOLDEN / "instructions.champsim").read_bytes()
    path = folder / "big.champsim"
    path.write_bytes(record * (TEXT_BYTES * 4 // len(record)))
    report(path.name, path)


def report(name: str, path: Path) -> None:
    """Print the rate of one file."""
    accesses = count(path)
    (took,) = best(lambda: count(path))
    print(f"  {name:22} {accesses / took / 1e6:8.1f} {path.stat().st_size / took / 1e6:8.0f}")
    path.unlink()


def main() -> None:
    """Print everything."""
    accesses = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 20_000_000
    with tempfile.TemporaryDirectory() as folder:
        own_format(Path(folder), accesses)
        other_formats(Path(folder))


if __name__ == "__main__":
    main()
