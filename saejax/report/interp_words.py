"""What the explanations of a run, `results/interp.json`, say in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from saejax.interp.summary import SOURCES


def about(record: Mapping[str, Any]) -> Iterator[str]:
    """Who explained, and how to read scores."""
    settings = record["settings"]
    fires, silent = settings["num_activating"], settings["num_non_activating"]
    windows = f"{fires} windows in which it fires and {silent} others"
    if record["explainer"]:
        who = (
            f"{record['explainer']} saw {settings['num_explain']} windows of each latent and "
            f"explained it; {record['scorer']} judged by the explanation {windows}."
        )
    else:
        who = f"No language model was asked: here are sets of tokens alone, judged on {windows}."
    yield (
        f"{who} Detection asks whether a window fits the explanation, fuzzing whether the right "
        "tokens are marked. A score is the mean of the two balanced accuracies: 0.5 is chance, 1 "
        "is perfect."
    )
    yield (
        "The reference is the simplest explanation, the set of tokens on which the latent fires at "
        "least at every second place, which needs no language model: what a model's explanations "
        "score above it is what they add. Scores depend on the models: compare them within a run."
    )
    # Not in results without an encoder.
    if "embedding" in record["summaries"]:
        yield (
            f"A third score needs no verdicts: {record['embedder']} turns the explanation and each "
            "of these windows into vectors, and the score is the area under the ROC curve of their "
            "cosine, how often a window in which the latent fires lies nearer to the explanation "
            "than another. 0.5 is chance here too, but the scale is another, and it is no part of "
            "the mean. Encoders see what a text is about more than single tokens: latents of "
            "function words can score low, however well they are explained."
        )


def findings(record: Mapping[str, Any]) -> Iterator[str]:
    """What the scores say, the mean of detection and fuzzing first."""
    yield from _findings(record, "mean", "score")
    if "embedding" in record["summaries"]:
        yield from _findings(record, "embedding", "embedding score")


def _findings(record: Mapping[str, Any], kind: str, score: str) -> Iterator[str]:
    found = record["summaries"][kind]
    names = {"llm": record["explainer"], "token_set": "the sets of tokens"}
    for source in SOURCES:
        if (each := found["difference"][source]) is not None:
            text = (
                f"Explained by {names[source]}, latents that another seed shares have a mean "
                f"{score} of {each['shared']:.3f}, those that none does {each['unshared']:.3f}"
            )
            if each["interval"]:
                low, high = each["interval"]
                text += f" (95 % interval of the difference: {low:+.3f} to {high:+.3f})"
            yield f"{text}."
    if (wins := found["llm_beats_token_set"]) is not None:
        total = wins["won"] + wins["tied"] + wins["lost"]
        yield (
            f"{names['llm']} has a higher {score} than the set of tokens for {wins['won']} of "
            f"{total} latents, the same for {wins['tied']}, and a lower one for {wins['lost']}."
        )
        if wins["interval"] and wins["interval"][1] < 0.5:
            yield (
                f"So the explanations by {names['llm']} say less than a list of tokens: these "
                "models explain or judge too poorly to conclude anything about latents from them."
            )
    for source in SOURCES:
        pairs = found["pairs"][source]
        if pairs["correlation"] is not None:
            text = (
                f"Over {pairs['num']} pairs explained by {names[source]}, the rank correlation of "
                f"the two {score}s is {pairs['correlation']:.2f}"
            )
            if pairs["mean_with_cosine"] is not None:
                text += f", and that of their mean with the cosine {pairs['mean_with_cosine']:.2f}"
            yield f"{text}."


def missing(record: Mapping[str, Any]) -> Iterator[str]:
    """What is not there, and why."""
    for stage, reason in record["missing"].items():
        yield f"{stage}: {reason}."
    if few := record["too_few"]:
        yield f"{len(few)} chosen latents fire in too few windows to be scored."
    if record["num_rare"]:
        yield (
            f"{record['num_rare']} latents of seed {record['base_seed']} fire too seldom to be "
            "chosen."
        )
    counts = record["summaries"]["counts"]
    said = [f"{number} {name}" for name, number in counts["problems"].items()]
    if said:
        yield f"Answers without an explanation: {', '.join(said)}."
    if counts["unparsable_windows"]:
        yield f"{counts['unparsable_windows']} windows have no readable verdict and do not count."
