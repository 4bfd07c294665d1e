"""Finding and loading an autoencoder: a run directory of saejax, or one exported folder."""

from pathlib import Path

from saejax.errors import InputError
from saejax.formats import saelens
from saejax.sae.sae import Sae


def load_sae(source: str | Path, hookpoint: str | None = None, seed: int | None = None) -> Sae:
    """Loads an autoencoder.

    Args:
      source: A folder with `cfg.json` and `sae_weights.safetensors` (SAELens v6), or a run
        directory of saejax, in which hook point and seed choose one.
      hookpoint: Needed only where the run has several.
      seed: Needed only where the run has several.

    Raises:
      InputError: If there is nothing to load, or several and no choice; lists what there is.
    """
    root = Path(source)
    if (root / saelens.CONFIG).is_file():
        return saelens.load(root)
    found = sorted((root / "saes").glob(f"*/seed*/{saelens.CONFIG}"))
    folders = [path.parent for path in found]
    if not folders:
        raise InputError(
            f"{root}: no autoencoder here; give a folder with {saelens.CONFIG} and "
            f"{saelens.WEIGHTS}, or a run directory with saes/<hookpoint>/seed<i>"
        )
    chosen = [
        folder
        for folder in folders
        if hookpoint in (None, folder.parent.name) and seed in (None, _seed_of(folder))
    ]
    if len(chosen) != 1:
        listed = ", ".join(f"{folder.parent.name} seed {_seed_of(folder)}" for folder in folders)
        raise InputError(
            f"{root}: hookpoint={hookpoint}, seed={seed} names {len(chosen)} autoencoders; "
            f"choose one of: {listed}"
        )
    return saelens.load(chosen[0])


def save_sae(sae: Sae, path: str | Path, *, format: str = "saelens") -> None:
    """Saves an autoencoder as a folder that SAELens (6 and later) loads as is.

    Raises:
      InputError: For another format.
    """
    if format != "saelens":
        raise InputError(f"format={format!r}: choose saelens")
    saelens.save(sae, Path(path))


def _seed_of(folder: Path) -> int:
    digits = folder.name.removeprefix("seed")
    return int(digits) if digits.isdigit() else -1
