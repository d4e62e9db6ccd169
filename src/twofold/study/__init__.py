"""Studies: scenarios, comparisons, results."""

from twofold.study.compare import COLD_LINE, Progress, compare
from twofold.study.curve import Curve, CurvePoint, curve, curves, curves_frame, curves_json
from twofold.study.hosts import THIS_HOST, default_memory, free_map
from twofold.study.outcome import HostSummary, Outcome, Row, host_summary
from twofold.study.scenario import (
    ExactScenario,
    GuestScenario,
    HostScenario,
    Scenario,
    load_scenario,
    make_scenario,
)
from twofold.study.simulation import simulate, workload_trace
from twofold.study.sites import build_all, guest_site, read_address, walk_answer
from twofold.study.traces import MemoryWatch, TracePrice, price_trace, stream_trace

__all__ = [
    "COLD_LINE",
    "THIS_HOST",
    "Curve",
    "CurvePoint",
    "ExactScenario",
    "GuestScenario",
    "HostScenario",
    "HostSummary",
    "MemoryWatch",
    "Outcome",
    "Progress",
    "Row",
    "Scenario",
    "TracePrice",
    "build_all",
    "compare",
    "curve",
    "curves",
    "curves_frame",
    "curves_json",
    "default_memory",
    "free_map",
    "guest_site",
    "host_summary",
    "load_scenario",
    "make_scenario",
    "price_trace",
    "read_address",
    "simulate",
    "stream_trace",
    "walk_answer",
    "workload_trace",
]
