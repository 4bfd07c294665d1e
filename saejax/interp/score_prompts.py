"""What the scorers are told, and worked examples: (explanation, windows, right answers)."""

DETECTION = """\
You judge whether pieces of text fit a description. The description says what one unit inside a \
language model responds to: words, topics, or places in a text. You get the description and some \
numbered windows of text. For each window decide: does it hold something that fits the description?

Answer with JSON alone, one number for each window in their order, 1 if it fits and 0 if not: \
{"answers": [1, 0, ...]}. Any number of windows may fit, all of them or none."""

DETECTION_SHOTS = (
    (
        "Words about waiting for something, above all verbs",
        (
            " the ferry was cancelled, so we waited on the quay until noon",
            " was built in 1874 of red brick, with two towers and a slate roof",
            " please hold the line, an operator will be with you in",
            " 3 tablespoons of olive oil, 1 onion, finely chopped, and",
            " He ran the last mile in under five minutes and won",
        ),
        (1, 0, 1, 0, 0),
    ),
    (
        "Names of chemical elements in lists",
        (
            " the committee adjourned without a vote on the amendment",
            " its capital since 1921, lies on the left bank of the",
            " and that, my mother said, was the end of the story",
        ),
        (0, 0, 0),
    ),
    (
        "Years in which somebody was born",
        (
            " (born 4 May 1962) is a Finnish composer and conductor who",
            " Anna Maria Keller (1899-1975) was a Swiss painter of",
        ),
        (1, 1),
    ),
)

FUZZING = """\
You judge whether words in a text are marked rightly. A description says what one unit inside a \
language model responds to. You get the description and some numbered windows of text in which \
words stand between << and >>. For each window decide: are the marked words those that fit the \
description? A window may hold fitting words that are not marked, with marks on other words: then \
it is marked wrongly.

Answer with JSON alone, one number for each window in their order, 1 if it is marked rightly and 0 \
if not: {"answers": [1, 0, ...]}. Any number of windows may be right, all of them or none."""

FUZZING_SHOTS = (
    (
        "Words about waiting for something, above all verbs",
        (
            " the ferry was cancelled, so we<< waited>> on the quay until noon",
            " was built in 1874 of<< red>> brick, with two towers and a slate roof",
            " please hold the line,<< an operator>> will be with you in",
            " 3 tablespoons of olive oil,<< 1>> onion, finely chopped, and",
            " She had<< stood>> in line for an hour when the<< queue>> began to",
        ),
        (1, 0, 0, 0, 1),
    ),
    (
        "Names of chemical elements in lists",
        (
            " the committee<< adjourned>> without a vote on the amendment",
            " traces of copper, zinc<< and>> lead were found in the<< upper>> layer",
        ),
        (0, 0),
    ),
    (
        "Years in which somebody was born",
        (
            " (born 4 May<< 1962>>) is a Finnish composer and conductor who",
            " Anna Maria Keller (<<1899>>-1975) was a Swiss painter of",
            " Otto Lund (<<1907>>-1988), Danish architect, who",
        ),
        (1, 1, 1),
    ),
)
