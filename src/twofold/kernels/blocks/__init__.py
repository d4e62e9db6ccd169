"""The block simulator of the MMU: a trace of loads in blocks, through one structure after another.

`kernels.mmu` takes one access through all structures, then the next. That is the model; it waits for a guess at every
hit. Here a block of accesses takes one structure after another: a structure only ever sees what missed the one before
it, and while tables do not change nothing that comes later can alter what it saw. So each stage is one loop over the
block, through one structure, and the counts stay exact.

      gvas                        a block: up to 2048 changes of the page
        |
     1 pages  <------> regions    tables are looked at once, 2 MiB at a time
        |  tags, page ids
     2 tlbs                       L1 TLB, then L2 TLB
        |  page ids that missed both
     3 walks                      the guest's paging-structure caches: where does each walk start?
        |  starts, places
     4 gpas   <------> regions    gpas of tables and data: nested TLB, then the P2M's caches
        |  gpas that missed, their starts
     5 lines                      every entry read, in order: L2 cache, L3 cache, memory
        |
     counters

- `block` is the way itself, stage by stage: start there. Each stage's module says what comes in and what goes out.
- `sieves` has the loops through one structure, `work` the buffers between stages, `tags` what stands in them.
- `state` takes the arrays of the model as rows of tags before a run, and gives them back behind it.

It counts what `spec.mmu.run` counts and leaves the state that it leaves, bit for bit, but it has no twin function by
function: a test holds it to the general path, in whole runs (docs/decisions/0007-mmu-fast-path.md). Its functions are
`inner`: no Python code can call one of them by itself. docs/blocks.md has the whole story.
"""

from twofold.kernels.blocks.block import run
from twofold.kernels.blocks.regions import Regions
from twofold.kernels.blocks.state import Rows, give_rows, take_rows
from twofold.kernels.blocks.work import Work

__all__ = ["Regions", "Rows", "Work", "give_rows", "run", "take_rows"]
