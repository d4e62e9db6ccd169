"""Traces of memory accesses, and the workloads that make them."""

from twofold.trace.accesses import DATA_KINDS, KIND_NAMES, TraceBlock
from twofold.trace.capture import Captured, capture_trace
from twofold.trace.convert import Converted, convert_trace, inspect_trace
from twofold.trace.readers import FORMATS, open_reader
from twofold.trace.summary import TraceInfo
from twofold.trace.trace import Trace
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
    "DATA_KINDS",
    "DEFAULT_WORKLOADS",
    "FORMATS",
    "KIND_NAMES",
    "MIN_FOOTPRINT",
    "PARAMETERS_BYTES",
    "PHASE_DONE",
    "PHASE_MEASURED",
    "PHASE_OFFSET",
    "PHASE_SETUP",
    "RESULT_OFFSET",
    "STACK_BYTES",
    "WORKLOADS",
    "Captured",
    "Converted",
    "Trace",
    "TraceBlock",
    "TraceInfo",
    "Workload",
    "capture_trace",
    "convert_trace",
    "get_workload",
    "inspect_trace",
    "open_reader",
]
