"""Files in delphi's layout, ours and as delphi writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.interp.delphi_scores import read_delphi, write_delphi
from saejax.interp.example import Example
from saejax.interp.questions import Question
from saejax.interp.score import score

QUESTIONS = [
    Question(Example((" a", "é\n"), np.asarray([0.0, 1.5], np.float32), 3)),
    Question(Example(("b",), np.zeros(1, np.float32), -1)),
    Question(Example(("c",), np.zeros(1, np.float32), -1)),
]
VERDICTS = [True, True, None]


def test_the_layout(tmp_path):
    path = tmp_path / "scores/detection/layers.6.mlp_latent7.txt"
    write_delphi(path, QUESTIONS, VERDICTS)
    rows = json.loads(path.read_bytes())
    assert rows[0] == {
        "str_tokens": [" a", "é\n"],
        "activations": [0.0, 1.5],
        "distance": 3,
        "activating": True,
        "prediction": True,
        "probability": None,
        "correct": True,
    }
    wanted = ("distance", "activating", "prediction", "correct")
    assert [rows[1][name] for name in wanted] == [-1, False, True, False]
    assert [rows[2][name] for name in wanted] == [-1, False, None, None]


def test_what_was_written_is_read(tmp_path):
    write_delphi(tmp_path / "x.txt", QUESTIONS, VERDICTS)
    found = read_delphi(tmp_path / "x.txt")
    assert found.verdicts == VERDICTS
    assert [q.example.tokens for q in found.questions] == [q.example.tokens for q in QUESTIONS]
    np.testing.assert_array_equal(found.questions[0].example.values, [0.0, 1.5])
    assert score(*found) == score(QUESTIONS, VERDICTS)


def test_a_file_of_delphi():
    # Written by eai-delphi 0.1.3: its DetectionScorer on four activating windows and three others,
    # one of them of a neighbour, with a client that said "Answer: [1, 0, 1]", "[0, 1, 0]" and, to
    # the last batch of one window, "[1]", which delphi does not take.
    found = read_delphi(Path(__file__).with_name("delphi_detection.json"))
    assert found.verdicts == [True, False, True, False, True, False, None]
    assert [q.example.quantile for q in found.questions] == [-1, 0, 1, -1, 3, -1, 2]
    assert found.questions[1].example.tokens[:2] == (" The", " cat")
    assert found.questions[1].example.values[1] == np.float32(3.97)
    # And delphi's compute_confusion on it: 2, 1, 2, 1 of 6.
    assert score(*found)[:5] == (2, 1, 2, 1, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"str_tokens": "ab"}, "str_tokens must be a list of strings"),
        ({"activations": [1.0]}, "as long as str_tokens"),
        ({"activations": [1.0, None]}, "finite numbers"),
        ({"activations": [1.0, float("nan")]}, "finite numbers"),
        ({"activating": 1}, "activating must be true or false"),
        ({"distance": None}, "distance=None must be the quantile"),
        ({"distance": -1}, "distance=-1 must be the quantile"),
        ({"prediction": "yes"}, "prediction=yes must be"),
    ],
)
def test_files_with_faults(tmp_path, change, says):
    write_delphi(tmp_path / "x.txt", QUESTIONS, VERDICTS)
    rows = json.loads((tmp_path / "x.txt").read_bytes())
    rows[0] |= change
    (tmp_path / "x.txt").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=says):
        read_delphi(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"[", "not JSON"), (b"\xff", "not JSON"), (b"{}", "no list"), (b"[1]", "window 0: no obj")],
)
def test_other_files(tmp_path, content, says):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_delphi(tmp_path / "x.txt")


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_delphi(tmp_path / "x.txt")
