"""Writes the figures and report.html of a run from its results; computes nothing.

python experiments/report.py --run=runs/quickstart
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from saejax import cli
from saejax.report import write_report

_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)


def main(argv: Sequence[str]) -> None:
    """Writes the report."""
    del argv
    print(f"report: {write_report(Path(_RUN.value))}")


if __name__ == "__main__":
    cli.run(main)
