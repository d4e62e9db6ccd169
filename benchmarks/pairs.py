"""Compare how fast two trees of Twofold run the MMU model: medians over pairs of processes, row by row.

Each pair is two fresh processes, one a tree, both driven by this tree's `mmu.py` over the same traces. They take turns,
run by run, so that whatever else the machine does hits both; a new pair draws a new layout of memory. Of each row the
best of a few rounds counts, and the counts of both must be equal. A ratio above 1 says that this tree is the faster.
Usage: python benchmarks/pairs.py PATH [--pairs N] [--accesses N] [--least RATIO]
PATH is a checkout, as `git worktree add PATH COMMIT` makes it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROUNDS = 3


class Worker:
    """A process that runs rows of the benchmark over the sources of one tree when told to."""

    def __init__(self, tree: Path, accesses: int) -> None:
        command = [sys.executable, str(HERE / "benchmarks" / "mmu.py"), "--serve", "--accesses", str(accesses)]
        environment = os.environ | {"PYTHONPATH": str(tree / "src")}
        self._process = subprocess.Popen(  # noqa: S603 - our own benchmark
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._tree = tree

    def ready(self) -> list[str]:
        """Wait until tables and traces are built; return the rows that it can run."""
        answer = self._read()
        if not Path(answer["package"]).is_relative_to(self._tree):
            sys.exit(f"{self._tree}: it ran {answer['package']}")
        rows: list[str] = answer["rows"]
        return rows

    def run(self, row: str) -> tuple[float, str]:
        """Run a row once; return how long that took [s], and what it counted."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{row}\n")
        self._process.stdin.flush()
        answer = self._read()
        return answer["seconds"], answer["counts"]

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._tree}: the benchmark ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def pair(trees: list[Path], accesses: int, number: int) -> dict[str, float]:
    """Return, for each row, how many times as fast this tree is in one pair."""
    workers = [Worker(tree, accesses) for tree in trees]
    rows, _ = (worker.ready() for worker in workers)
    ratios = {}
    for row in rows:
        times: list[list[float]] = [[], []]
        counts = set()
        for turn in range(ROUNDS):
            for side in ((0, 1), (1, 0))[(number + turn) % 2]:
                seconds, counted = workers[side].run(row)
                times[side].append(seconds)
                counts.add(counted)
        if len(counts) > 1:
            sys.exit(f"{row}: the trees count differently")
        ours, others = (min(each) for each in times)
        ratios[row] = others / ours
    for worker in workers:
        worker.end()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", type=Path, help="the other tree: a checkout of Twofold")
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--accesses", type=int, default=2_000_000)
    parser.add_argument("--least", type=float, default=0.95, help="of each row's median; below it the exit code is 1")
    options = parser.parse_args()
    found = []
    for number in range(options.pairs):
        found.append(pair([HERE, options.tree.resolve()], options.accesses, number))
        ratios = "  ".join(f"{row} {ratio:.3f}" for row, ratio in found[-1].items())
        print(f"pair {number + 1:2d}: {ratios}", flush=True)
    medians = {row: statistics.median(each[row] for each in found) for row in found[0]}
    for row, median in medians.items():
        low, high = min(each[row] for each in found), max(each[row] for each in found)
        verdict = "held" if median >= options.least else "BELOW"
        spread = f"{low:.3f} to {high:.3f}, {len(found)} pairs"
        print(f"{row:22s} median {median:.3f}  ({spread})  must {options.least}: {verdict}")
    sys.exit(int(min(medians.values()) < options.least))


if __name__ == "__main__":
    main()
