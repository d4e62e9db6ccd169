"""Reports: terminal tables, figures, one-file HTML. Computes nothing."""

from twofold.report.curve_page import curves_html, write_curves
from twofold.report.html import report_html, write_report

__all__ = ["curves_html", "report_html", "write_curves", "write_report"]
