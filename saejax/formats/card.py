"""The model card of published autoencoders: what they are, how to load them, what seeds share."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from saejax.analysis.overlap import COLUMNS
from saejax.files import atomic_write
from saejax.formats.convert import Converted
from saejax.rundir import RunDir
from saejax.sources import HUB_ID

# How the library of each format loads a folder `{folder}`.
_LOADERS = {
    "saelens": 'from sae_lens import SAE\n\nsae = SAE.load_from_disk("{folder}")',
    "sparsify": 'from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_disk("{folder}")',
    "dictionary_learning": "from dictionary_learning.utils import load_dictionary\n\n"
    'sae, config = load_dictionary("{folder}", device="cpu")',
}
# The first of these that a run has is shown.
_FIGURES = ("donut", "levels", "thresholds", "scatter")


def write_card(
    out: Path, converted: Sequence[Converted], format: str, *, repository: str, run: RunDir | None
) -> None:
    """Writes `README.md` into a folder of autoencoders, and the overlap figure beside it.

    Args:
      out: The folder, which holds all of them.
      converted: What it holds.
      format: Of the files.
      repository: Where it is going, "owner/name".
      run: The run they come from, if it is one of saejax; gives configuration and results.

    Raises:
      InputError: If the folder cannot be written.
    """
    base = _first(converted, "model_name")
    dataset = _first(converted, "dataset_path")
    data = ModelCardData(
        library_name={"saelens": "sae_lens"}.get(format, format),
        tags=["sparse-autoencoder", "interpretability", "saejax"],
        base_model=base if HUB_ID.fullmatch(base) else None,
        datasets=dataset if HUB_ID.fullmatch(dataset) else None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repository.partition('/')[2]}",
        f"Sparse autoencoders of `{base or 'an unnamed model'}`"
        + (f", trained on `{dataset}`" if dataset else "")
        + f", in the format of {format}, written by saejax.",
        _saes_table(out, converted),
        _loading(out, converted, format, repository),
    ]
    if run is not None:
        parts += _results(out, run)
        parts.append(
            "<details><summary>Configuration of the run</summary>\n\n```json\n"
            f"{run.config.read_text().strip()}\n```\n\n</details>"
        )
    with atomic_write(out / "README.md") as file:
        file.write("\n\n".join(parts).encode() + b"\n")


def _saes_table(out: Path, converted: Sequence[Converted]) -> str:
    rows = []
    for one in converted:
        about, sae = dict(one.sae.metadata), one.sae
        kind = f"{sae.arch}, k={sae.k}" if sae.arch == "topk" else sae.arch
        rows.append(
            [
                f"`{_folder(out, one)}`",
                f"`{about.get('hookpoint', about.get('hook_name', 'unknown'))}`",
                str(about.get("seed", "")),
                f"{kind}{', transcoder' if sae.transcoder else ''}",
                f"{sae.num_latents:,}",
                f"{sae.d_model:,}",
            ]
        )
    return _table(["folder", "hook point", "seed", "kind", "latents", "width"], rows)


def _loading(out: Path, converted: Sequence[Converted], format: str, repository: str) -> str:
    first = converted[0]
    chosen = "" if first.path == out else f', hookpoint="{_folder(out, first)}"'
    return (
        "## Loading\n\n```python\nimport saejax\n\n"
        f'sae = saejax.load_sae("hub:{repository}"{chosen})\n```\n\n'
        f"or, from a copy of the folder,\n\n```python\n"
        f"{_LOADERS[format].format(folder=_folder(out, first))}\n```"
    )


def _results(out: Path, run: RunDir) -> list[str]:
    """What the run found, as far as it has looked."""
    parts = []
    if overlap := run.read_result("overlap"):
        pairs = overlap["pairs"]
        rows = [
            [f"{p['seeds'][0]}, {p['seeds'][1]} ({p['method']})"]
            + [f"{p[name]:.1%}" for name in COLUMNS]
            for p in pairs
        ]
        parts.append(
            "## How much depends on the seed\n\n"
            "Latents of one seed that have a counterpart in another, at a cosine of "
            f"{pairs[0]['threshold']:g}, by definition ("
            "*shared*: decoder and encoder matching name the same partner, both above; see saejax "
            "for the others):\n\n" + _table(["seeds", *COLUMNS.values()], rows)
        )
        folder = run.figure("any", "png").parent
        if figures := [path for kind in _FIGURES for path in sorted(folder.glob(f"{kind}.*.png"))]:
            target = out / "figures" / figures[0].name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(figures[0], target)
            parts.append(f"![Overlap of seeds](figures/{target.name})")
    if evaluation := run.read_result("evaluate"):
        rows = [
            [
                str(scores["seed"]),
                f"{scores['fvu']['value']:.4f}",
                f"{scores['l0']['value']:.1f}",
                f"{scores['dead_frac']:.1%}",
                f"{scores['spliced']['increase']['value']:.4f}",
            ]
            for scores in evaluation["saes"]
        ]
        titles = ["seed", "FVU", "L0", "dead", "loss increase when spliced in (nats/token)"]
        parts.append(
            f"## On text\n\n{evaluation['num_tokens']:,} tokens of {evaluation['text']}:\n\n"
            + _table(titles, rows)
        )
    return parts


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _folder(out: Path, one: Converted) -> str:
    return one.path.relative_to(out).as_posix()


def _first(converted: Sequence[Converted], name: str) -> str:
    """An entry of the metadata, of the first that has it."""
    return next((str(v) for one in converted for k, v in one.sae.metadata if k == name), "")
