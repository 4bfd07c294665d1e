"""Documents of data sets on the Hugging Face hub, read as they arrive."""

from collections.abc import Iterator
from typing import Any

from saejax.config import DataConfig
from saejax.data.records import record_text
from saejax.errors import InputError
from saejax.sources import HUB_ID


def is_hub_id(source: str) -> bool:
    """Whether a source has the form `org/name` or `org/name@revision`."""
    return HUB_ID.fullmatch(source) is not None


def open_hub(cfg: DataConfig) -> tuple[list[Any], Iterator[str]]:
    """A data set's identity (its commit, subset, split and so on), and its texts.

    The texts are streamed: nothing is downloaded but what is read. A data set that the package
    `datasets` has in its own cache is read from there when the hub cannot be reached.

    Raises:
      InputError: If the package is missing, or the hub, the data set, its subset, split or text.
    """
    try:
        # Names, since a folder `datasets` in the path would pass for the package.
        from datasets import load_dataset_builder  # pyright: ignore[reportMissingImports]
        from datasets.exceptions import DatasetsError  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"data.source={cfg.source!r} is no file, and data sets of the hub need the package "
            "datasets, which is not installed: run `pip install datasets`"
        ) from None
    found = HUB_ID.fullmatch(cfg.source)
    assert found is not None, "the caller asked is_hub_id"
    split = cfg.split or "train"

    def explained(error: Exception) -> InputError:
        # Some messages have lines of advice on the package's own arguments.
        reason, *advice = str(error).strip().split("\n")
        if "Config name is missing" in reason:
            # Its second line has the names.
            reason = f"{' '.join([reason, *advice[:1]])}; set --config.data.subset"
        token = "; ask for access and set HF_TOKEN" if "gated" in reason else ""
        return InputError(
            f"data.source={cfg.source!r} is no file, and as a data set of the hub cannot be read: "
            f"{reason}{token}; check the name and the network"
        )

    errors = (OSError, ValueError, DatasetsError)
    try:
        builder = load_dataset_builder(
            found["name"], cfg.subset or None, revision=found["revision"]
        )
        dataset: Any = builder.as_streaming_dataset(split=split)
    except errors as error:
        raise explained(error) from None
    columns = dataset.column_names
    if columns is not None:
        if cfg.text_field not in columns:
            raise InputError(
                f"data.source={cfg.source!r}: no column {cfg.text_field!r} (columns: "
                f"{', '.join(columns)}); set --config.data.text_field"
            )
        dataset = dataset.select_columns([cfg.text_field])

    def texts() -> Iterator[str]:
        try:
            for number, row in enumerate(dataset, start=1):
                yield record_text(row, cfg.text_field, f"{cfg.source}, record {number}")
        except InputError:
            raise
        except errors as error:
            raise explained(error) from None

    return [found["name"], builder.config.name, builder.hash, split], texts()
