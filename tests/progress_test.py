"""Progress: plain lines off a terminal, a bar on one."""

import io

from saejax.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_have_position_rate_time_left_and_values():
    stream = io.StringIO()
    with Progress("train", total=200, unit="tokens", stream=stream) as progress:
        progress.advance(100, fvu=0.25)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 0/200 tokens"
    assert lines[-1].startswith("train: 100/200 tokens, ")
    assert "tokens/s" in lines[-1]
    assert "s left" in lines[-1]
    assert lines[-1].endswith("fvu 0.25")


def test_resumed_work_does_not_count_for_the_rate():
    progress = Progress("x", total=1000, unit="tokens", initial=900, stream=io.StringIO())
    assert progress.rate == 0


def test_unknown_total():
    stream = io.StringIO()
    with Progress("tokenize", total=None, unit="tokens", stream=stream) as progress:
        progress.advance(3)
    assert "3 tokens," in stream.getvalue()
    assert "left" not in stream.getvalue()


def test_bar_on_a_terminal():
    stream = Terminal()
    with Progress("train", total=10, unit="steps", stream=stream) as progress:
        progress.advance(10, dead=0.5)
    assert "train: 100%" in stream.getvalue()
    assert "dead=0.5" in stream.getvalue()
