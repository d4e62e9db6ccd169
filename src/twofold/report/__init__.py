"""Reports: terminal tables, figures, one-file HTML. Computes nothing."""

from twofold.report.html import report_html, write_report

__all__ = ["report_html", "write_report"]
