"""What a process says when C++ aborts it: reports of the coordination service are held back."""

import subprocess
import sys

import pytest

_PROGRAM = """
import os, sys
from saejax.last_words import LastWords

def explain(report):
    print("explained", len(report.splitlines()), file=sys.stderr, flush=True)
    return 3

words = LastWords(explain)
os.write(2, b"before\\n")
for report in sys.argv[2:]:
    os.write(2, report.encode())
if sys.argv[1] == "abort":
    os.abort()
words.close()
print("after", file=sys.stderr)
os.write(2, b"end\\n")
"""
WARNING = "W1129 11:03:22.19 5845 preemption_sync_manager.cc:147] Failed\nSocket closed\n"
OTHER = "W1129 11:03:22.19 5845 fusion.cc:1] Slow\n"
FATAL = "F1129 11:03:22.19 5845 client.h:80] Terminating process\nRPC: ...\n"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True
    )


def test_all_is_passed_on_but_what_the_service_says():
    done = run("go on", OTHER, WARNING)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-2:] == ["after", "end"]
    assert "before" in done.stderr
    assert OTHER in done.stderr
    assert "Failed" not in done.stderr


def test_abort_after_a_report_of_the_service_is_explained():
    done = run("abort", FATAL, "*** stack trace\n")
    assert done.returncode == 3
    assert done.stderr.splitlines() == ["before", "explained 3"]


@pytest.mark.parametrize("report", [OTHER, ""])
def test_abort_for_another_reason_is_one(report):
    done = run("abort", report)
    assert done.returncode == 134
    assert done.stderr == f"before\n{report}"
