"""What the explainer is shown, and what is read from its answer."""

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.interp import explain
from saejax.interp.chat import Answer
from saejax.interp.example import Example
from saejax.interp.marks import active, show


def example(values, tokens=None, quantile=0):
    tokens = tokens or tuple(f" t{i}" for i in range(len(values)))
    return Example(tuple(tokens), np.asarray(values, np.float32), quantile)


@pytest.mark.parametrize(
    ("values", "positions"),
    [
        ([0, 1, 10], (2,)),
        ([3, 3.1, 10], (1, 2)),
        ([2, 2, 2], (0, 1, 2)),
        ([0, 0, 0], ()),
        ([], ()),
    ],
)
def test_active_tokens_are_above_three_tenths(values, positions):
    assert active(example(values)) == positions


def test_windows_are_one_line_with_marks_around_runs():
    tokens = ("a", " b", " c", "\n", " <<d", " e>>\r")
    assert show(tokens) == r"a b c\n < <d e> >\r"
    assert show(tokens, (0, 2, 3, 5)) == r"<<a>> b<< c\n>> < <d<< e> >\r>>"


def test_the_request_shows_marks_and_strengths():
    latent = [
        example([0, 20.0, 2.1, 6.5], (" The", " cat", " sat", " down")),
        # A weak window has marks of its own.
        example([0.5, 1.0, 0.0], ("x", "\n", "z"), quantile=9),
    ]
    (request,) = explain.requests([latent], max_tokens=77)
    assert request.max_tokens == 77
    assert request.messages[0].role == "system"
    assert "[EXPLANATION]:" in request.messages[0].content
    assert [m.role for m in request.messages[1:]] == ["user", "assistant"] * 2 + ["user"]
    assert request.messages[-1].content == "\n".join(
        [
            "Window 1:  The<< cat>> sat<< down>>",
            'Responses: (" cat", 10), (" down", 4)',
            r"Window 2: <<x\n>>z",
            r'Responses: ("x", 1), ("\n", 1)',
        ]
    )
    assert explain.requests([latent, latent[:1]])[0].messages[:5] == request.messages[:5]


@pytest.mark.parametrize("message", [1, 3])
def test_the_shots_are_as_our_own_requests(message):
    lines = explain.requests([[example([1])]])[0].messages[message].content.split("\n")
    assert [line.split(" ")[0] for line in lines] == ["Window", "Responses:"] * 3
    assert all("<<" in line and ">>" in line for line in lines[::2])


@pytest.mark.parametrize(
    "latent", [[], [example([0, 0])], [example([1]), example([0], quantile=-1)]]
)
def test_windows_in_which_the_latent_is_silent(latent):
    with pytest.raises(InputError, match="windows, not all of them with values above 0"):
        explain.requests([latent])


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("They are cats.\n[EXPLANATION]: Names of cats", "Names of cats"),
        ("[EXPLANATION]: first\nno, better:\n[EXPLANATION]: second\n", "second"),
        ("[explanation] Cats", "Cats"),
        ("**[EXPLANATION]:** Cats", "Cats"),
        ("**Explanation:** `Cats`", "Cats"),
        ("### Explanation:\n\nCats.", "Cats."),
        ('[EXPLANATION]: "Cats" ', "Cats"),
        ("<think>\nmaybe [EXPLANATION]: dogs\n</think>\n[EXPLANATION]: Cats", "Cats"),
        ("[EXPLANATION]: Words like x: y", "Words like x: y"),
        ("Names of cats", "Names of cats"),
        ("I looked.\nThey are cats.", None),
        ("[EXPLANATION]:", None),
        ("<think>\nhm", None),
        ('```json\n{"explanation": "Names of \\"cats\\""}\n```', 'Names of "cats"'),
        ('{"explanation": "Names\nof cats"}', "Names of cats"),
        ('{"explanation": ""}', None),
        (r'{"explanation": "Names \of"}', None),
        ('{"explanation": "Names of', None),
        ("", None),
    ],
)
def test_explanations_are_found(text, explanation):
    assert explain.parse(Answer(text, 1, 1)) == explanation


def test_second_requests_ask_the_same_in_json():
    latent = [example([1, 0])]
    (first,), (second,) = explain.requests([latent]), explain.second_requests([latent])
    assert second.messages[:-1] == first.messages[:-1]
    assert second.messages[-1].content.startswith(first.messages[-1].content + "\n\n")
    assert second.schema["required"] == ["explanation"]
    (long,) = explain.second_requests([latent], reasoning_tokens=1000)
    assert long.max_tokens == second.max_tokens + 1000


@pytest.mark.parametrize(
    ("text", "problem", "unread"),
    [
        ("a\nb", "", True),
        ("a", "truncated", True),
        ("", "empty", True),
        ("a", "", False),
        ("[EXPLANATION]: a\nb", "truncated", False),
        ("no", "refused", False),
        ("", "failed: 500", False),
    ],
)
def test_what_is_worth_a_second_request(text, problem, unread):
    assert explain.is_unread(Answer(text, 1, 1, problem=problem)) == unread


def test_cut_off_and_refused_answers():
    assert explain.parse(Answer("Names of", 1, 1, problem="truncated")) is None
    assert explain.parse(Answer("I cannot help.", 1, 1, problem="refused")) is None
    assert explain.parse(Answer("[EXPLANATION]: Cats", 1, 1, problem="truncated")) == "Cats"
