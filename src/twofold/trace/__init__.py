"""Traces of memory accesses, and the workloads that make them."""

from twofold.trace.workloads import (
    AREA_BASE,
    AREA_BASE_32,
    DEFAULT_WORKLOADS,
    MIN_FOOTPRINT,
    PARAMETERS_BYTES,
    PHASE_DONE,
    PHASE_MEASURED,
    PHASE_OFFSET,
    PHASE_SETUP,
    RESULT_OFFSET,
    STACK_BYTES,
    WORKLOADS,
    Workload,
    get_workload,
)

__all__ = [
    "AREA_BASE",
    "AREA_BASE_32",
    "DEFAULT_WORKLOADS",
    "MIN_FOOTPRINT",
    "PARAMETERS_BYTES",
    "PHASE_DONE",
    "PHASE_MEASURED",
    "PHASE_OFFSET",
    "PHASE_SETUP",
    "RESULT_OFFSET",
    "STACK_BYTES",
    "WORKLOADS",
    "Workload",
    "get_workload",
]
