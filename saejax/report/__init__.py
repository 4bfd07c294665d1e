"""Figures of a run, and one self-contained page that tells what it found."""

from saejax.report.page import write_report

__all__ = ["write_report"]
