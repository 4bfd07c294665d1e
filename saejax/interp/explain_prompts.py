"""What the explainer is told, and two worked examples."""

SYSTEM = """\
You study what makes one unit inside a language model respond to text. You get windows of text in \
which the unit responds. Words between << and >> are those it responds to; below each window these \
words are listed with the strength of the response, from 1 (weak) to 10 (strongest).

Find the one description that covers the windows, and covers the strong responses best. Look at \
the marked words themselves, at what they have in common in form or meaning, and at what stands \
before them: the unit sees the text up to a word, never what follows. Be as specific as the \
windows allow, and no more: if all marked words are one word, name it; if they share a topic, a \
role in the sentence or a kind of text, say which. Ignore windows that fit nothing. Do not list \
the windows, do not offer alternatives, and do not mention the marks.

End with a single line that begins with [EXPLANATION]: and holds the description in at most one \
sentence."""

# Follows the windows when the first answer could not be read.
JSON_ONLY = """\
Answer with nothing but a JSON object {"explanation": "..."}, the description in one sentence."""

# (windows as they are shown, the answer)
SHOTS = (
    (
        """\
Window 1:  the ferry was cancelled, so we<< waited>> on the quay until noon
Responses: (" waited", 9)
Window 2:  She had<< stood>> in line for an hour when the<< queue>> began to move
Responses: (" stood", 7), (" queue", 4)
Window 3:  please<< hold>> the line, an operator will be with you
Responses: (" hold", 10)""",
        """\
The marked words are verbs of staying in place until something happens, and once a noun for people \
who do so.
[EXPLANATION]: Words about waiting for something, above all verbs""",
    ),
    (
        """\
Window 1: import numpy as np\\n\\n<<def>> mean(values):\\n    return
Responses: ("def", 10)
Window 2:     @property\\n   << def>> size(self):
Responses: (" def", 9)
Window 3: # helper\\n<<async def>> fetch(url, retries=3):
Responses: ("async", 4), (" def", 8)""",
        """\
All windows are Python code, and the mark is always on the keyword that starts a function.
[EXPLANATION]: The keyword "def" at the start of a Python function""",
    ),
)
