r"""Writes autoencoders in the format of another library, and publishes them.

    python experiments/convert.py --source=runs/quickstart --out=converted --format=sparsify

converts all autoencoders of a run; --hookpoint and --seed choose. The source is a folder of saejax,
SAELens (6 and before), sparsify or dictionary_learning, a file of OpenAI's, or hub:owner/name of
the Hugging Face hub; the formats are saelens, sparsify and dictionary_learning. One autoencoder
goes into --out itself, several into folders below it.

Each is read again after it was written, and its weights and reconstructions are compared with
those of the source. What the new format has no place for is listed; an autoencoder that it does
not have (a gated one in sparsify, say) is refused.

    python experiments/convert.py --source=runs/quickstart --out=converted --format=saelens \
        --push_to_hub=owner/name

writes a model card too, with the configuration and results of the run (overlap of seeds and its
figure; those of evaluate.py, if it has run), and uploads all of it. --card_of=owner/name writes the
card without uploading. The token is read from HF_TOKEN or from `hf auth login`.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from saejax import cli
from saejax.formats import hub
from saejax.formats.card import write_card
from saejax.formats.convert import Converted, check_free, convert
from saejax.formats.load import FORMATS, choose, find
from saejax.rundir import RunDir

_SOURCE = flags.DEFINE_string("source", None, "Folder or hub:owner/name[@revision].", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write, new or empty.", required=True)
_FORMAT = flags.DEFINE_enum("format", "saelens", tuple(FORMATS), "What to write.")
_HOOKPOINT = flags.DEFINE_string("hookpoint", None, "Only those of this hook point, or folder.")
_SEED = flags.DEFINE_integer("seed", None, "Only those of this seed.")
_PUSH = flags.DEFINE_string("push_to_hub", None, "Repository owner/name to upload to.")
_PRIVATE = flags.DEFINE_boolean(
    "private", True, "With --push_to_hub: keep a new repository private."
)
_CARD = flags.DEFINE_string("card_of", None, "Write the model card of this repository, owner/name.")


def main(argv: Sequence[str]) -> None:
    """Converts, reports, publishes."""
    del argv
    out = Path(_OUT.value)
    check_free(out)
    repository = _PUSH.value or _CARD.value
    if repository:
        hub.parse(f"{hub.SCHEME}{repository}")
    found = choose(find(_SOURCE.value), _SOURCE.value, _HOOKPOINT.value, _SEED.value)
    converted = []
    for one in found:
        folder = out / one.name.removeprefix("saes/") if len(found) > 1 else out
        converted.append(convert(_SOURCE.value, one, folder, _FORMAT.value))
        print(_line(converted[-1]), flush=True)
    if repository:
        run = RunDir(Path(_SOURCE.value))
        of_run = run.config.is_file() and (run.root / "saes").is_dir()
        write_card(
            out, converted, _FORMAT.value, repository=repository, run=run if of_run else None
        )
        print(f"card: {out / 'README.md'}")
    if _PUSH.value:
        print(f"published: {hub.push(out, _PUSH.value, private=_PRIVATE.value)}")


def _line(one: Converted) -> str:
    weights = (
        "the same bits" if one.same_bits else f"folded, reconstructions within {one.error:.0e}"
    )
    dropped = f"; no place for {', '.join(one.dropped)}" if one.dropped else ""
    return f"{one.name or '.'} -> {one.path}: {weights}{dropped}"


if __name__ == "__main__":
    cli.run(main)
