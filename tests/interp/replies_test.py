"""Replies as language models write them."""

import itertools
import json

import pytest

from saejax.interp.replies import parse

YES_NO = [True, False, True]


@pytest.mark.parametrize(
    "text",
    [
        '{"answers": [1, 0, 1]}',
        '{\n  "answers": [\n    1,\n    0,\n    1\n  ]\n}',
        "[1,0,1]",
        "[1, 0, 1,]",
        "[true, false, true]",
        "[True, False, True]",
        "['yes', 'no', 'yes']",
        '```json\n{"answers": [1, 0, 1]}\n```\nWindow 2 is about ships [see above].',
        "Sure! The answer is [1, 0, 1]. I hope this helps.",
        "[1, 0, 1] and once more: [1, 0, 1]",
        "Example 1: yes\nExample 2: no\nExample 3: yes",
        "Example 0: yes\nExample 1: no\nExample 2: yes",
        "3. Yes, since it is about cats\n1. Yes\n2. No: it has 4 dogs",
        '{"example_1": 1, "example_2": 0, "example_3": 1}',
        "- **Window 1**: True\n- **Window 2**: False\n- **Window 3**: True",
        "Window [1]: yes\nWindow [2]: no\nWindow [3]: yes",
        "1, 0, 1",
        "yes no yes.",
        "Yes\nNo\nYes\n",
        "1) yes 2) no 3) yes",
    ],
)
def test_replies_that_are_clear(text):
    assert parse(text, 3) == YES_NO


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot do that.",
        "[1, 0]",
        "[1, 0, 1, 1]",
        '{"answers": [1, 0',
        "[1, 0, 2]",
        "[1, 0, 1] or rather [1, 1, 1]",
        "1: yes\n2: no",
        "1: yes\n2: no\n2: yes",
        "1: yes\n2: no\n4: yes",
        "yes, I think so",
        "101",
        "[]",
        "Answers: none",
        "[0.5, 0, 1]",
    ],
)
def test_replies_that_are_not(text):
    assert parse(text, 3) is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[1]", True),
        ("[0]", False),
        ("0", False),
        ("No.", False),
        ("Yes, because it mentions a cat.", True),
        ("Window 1: no", False),
        ("Window [1]: no", False),
        ('{"answers": [0]}', False),
        ("It might.", None),
        ("[1, 0]", None),
    ],
)
def test_replies_on_one_window(text, verdict):
    assert parse(text, 1) == (None if verdict is None else [verdict])


def test_every_json_answer_is_read():
    for count in range(1, 6):
        for verdicts in itertools.product([0, 1], repeat=count):
            expected = [bool(verdict) for verdict in verdicts]
            assert parse(json.dumps({"answers": verdicts}), count) == expected
            numbered = "\n".join(f"Example {i}: {v}" for i, v in enumerate(verdicts, start=1))
            assert parse(numbered, count) == expected
