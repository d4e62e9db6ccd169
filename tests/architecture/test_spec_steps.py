"""Each step of a walk, plan, split, merge, heap operation and audit says where it comes from, or what it keeps true.

Such a comment has one of the forms below, and says why the step is as it is:

    # AMD APM vol. 2, "Nested Paging": ...         a section of a manual, by its title
    # Xen 4.17 xen/arch/x86/mm/p2m.c, audit_p2m: ...         a function of its sources
    # Knuth vol. 1, 2.5, "Buddy system", algorithm S: ...
    # invariant: ...
"""

import re

import pytest
from source_tree import functions, modules

SOURCES = {
    "AMD APM vol. 2": {
        "2-Mbyte Page Translation",
        "Long-Mode Page Translation",
        "Nested Paging",
        "PAE Paging",
        "Page Splintering",
        "Page-Protection Checks",
        "Page-Size Extensions",
    },
    "Intel SDM vol. 3": {
        "Accessed and Dirty Flags",
        "Caching Translation Information",
        "EPT Misconfigurations",
        "EPT Violations",
        "Exit Qualification for EPT Violations",
        "Invalidation of TLBs and Paging-Structure Caches",
        "PDPTE Registers",
        "Paging-Structure Caches",
    },
}
MANUALS = "|".join(
    rf'{re.escape(manual)}, "(?:{"|".join(map(re.escape, sorted(titles)))})"' for manual, titles in SOURCES.items()
)
NAMED = re.compile(
    rf"# (?:invariant|{MANUALS}"
    r"|Xen 4\.17 xen/[\w/.-]+\.[ch], \w+"
    r"|Knuth vol\. 1, 2\.5, \"Buddy system\", algorithm [RS]): \S"
)
BEGINS = re.compile(r"# (?:invariant|AMD APM|Intel SDM|Xen |Knuth )")

# How many steps each function names at least.
LIST = """
walk: check_entry 2, access_frame 4, mark_path 1, mark_entry 2, nested 4, walk_2d 4, mark_2d 3,
    gfns_of 1
p2m: ending_sizes 1, segment 2, split_tables 1, cannot_split 1, path_need 3, plan_map 2, map_pieces 1, change_one 1,
    fill 2, take 1, descend 2, split_leaf 3, forget 1, retire 1, put_aside 1, release 1, plan_unmap 1, cut_need 2,
    cut_tables 1, unmap 1, unmap_pieces 1, clear_first 2, prune 1, plan_split 2, split 1, end_of_walk 1
resize: plan_split_range 2, split_range 1, uniform 3, first_leaf 1, merge 5, merge_range 1
heap: find 2, first_fitting 1, push 1, remove 1, push_blocks 1, alloc 1, break_block 2, alloc_runs 2, put_back 2,
    free 1, free_runs 1, block_order 1, is_free 1, collect_blocks 1
audit: note 1, mark_owners 1, start 1, push 1, audit_tables 4, check_place 1, check_bits 1, check_table 1,
    check_type 1, check_leaf 3, audit_frames 1
lookup: look_up 2, flatten 1, clear_frames 1, collect_leaves 1, collect_runs 1
mmu: touch 1, insert 1, drop 1, deepest 1, translate_gpa 4, fill 1, lookup 2, walk 5, load_roots 1
"""
STEPS = {
    (module, name): int(count)
    for module, names in re.findall(r"^(\w+): ((?:\w+\s+\d+,?\s+)+)", LIST, re.MULTILINE)
    for name, count in re.findall(r"(\w+)\s+(\d+)", names)
}
WHOLE = {"walk", "p2m", "resize", "heap", "audit"}  # modules of steps: no function of some length is without one
SHORT = 5  # lines of a question that needs no reason

FUNCTIONS = {(each.module.path.stem, each.name): each for each in functions() if each.module.home == "spec"}
LINES = {
    module.path.stem: module.path.read_text(encoding="utf-8").splitlines()
    for module in modules()
    if module.home == "spec"
}


def named(lines: list[str]) -> list[str]:
    """Return the lines that name a source or an invariant."""
    return [line for line in lines if NAMED.search(line)]


def lines_of(key: tuple[str, str]) -> list[str]:
    """Return the source of a function."""
    node = FUNCTIONS[key].node
    return LINES[key[0]][node.lineno - 1 : node.end_lineno]


@pytest.mark.parametrize("key", STEPS, ids=".".join)
def test_every_step_names_its_source_or_its_invariant(key):
    assert len(named(lines_of(key))) >= STEPS[key]


def test_no_function_of_some_length_is_left_out():
    long = {key for key, each in FUNCTIONS.items() if key[0] in WHOLE and each.length > SHORT}
    assert long - STEPS.keys() == set()
    assert {key[0] for key in STEPS} >= WHOLE


def test_what_looks_like_a_source_is_one_of_those_listed():
    wrong = [
        f"spec/{module}.py:{number}: {line.strip()}"
        for module, lines in LINES.items()
        for number, line in enumerate(lines, 1)
        if BEGINS.search(line) and not NAMED.search(line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        '    # AMD APM vol. 2, "Nested Paging": each entry needs US',
        "    # Xen 4.17 xen/arch/x86/mm/p2m.c, audit_p2m: both directions",
        "    # invariant: no frame is lost",
    ],
)
def test_a_named_step_is_seen(line):
    assert named([line]) == [line]


@pytest.mark.parametrize("line", ['    # AMD APM vol. 2, "Nested Pages": US', "    # invariant:", "    # step 3: read"])
def test_a_step_that_names_nothing_is_seen(line):
    assert named([line]) == []
