"""Data sets through the package `datasets`: from the hub, streamed, and saved to disk."""

import sys

import pytest

from saejax.config import DataConfig
from saejax.data.documents import open_documents
from saejax.errors import InputError

datasets = pytest.importorskip("datasets")

TEXTS = ["one", "two", "three"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A builder of local Parquet files in the place of the hub's, and what was asked of it."""
    rows = datasets.Dataset.from_dict({"text": TEXTS, "id": [1, 2, 3]})
    rows.to_parquet(tmp_path / "rows.parquet")
    asked = []

    def load_dataset_builder(name, subset, revision):
        asked.append((name, subset, revision))
        return real("parquet", data_files={"train": str(tmp_path / "rows.parquet")})

    real = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    return asked


def read(**fields):
    documents = open_documents(DataConfig(**fields))
    return documents.identity, list(documents.texts)


def test_streamed_from_the_hub(hub):
    identity, texts = read(source="org/name@main")
    assert texts == TEXTS
    assert hub == [("org/name", None, "main")]
    assert identity[0] == "org/name"
    assert identity[-1] == "train"
    with pytest.raises(InputError, match=r"no column 'body' \(columns: text, id\)"):
        read(source="org/name", text_field="body")
    with pytest.raises(InputError, match=r"no text in field 'id'|no text in field"):
        read(source="org/name", text_field="id")
    with pytest.raises(InputError, match=r"Bad split: dev\. Available splits"):
        read(source="org/name", split="dev")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'org/name' is a gated dataset."),
            "gated dataset.; ask for access and set HF_TOKEN",
        ),
        (ConnectionError("Couldn't reach 'org/name' on the Hub"), "Couldn't reach"),
        (ValueError("Bad.\nCall it otherwise"), "Bad.; check"),
        (ValueError(), "cannot be read: ; check"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(monkeypatch, error, says):
    def refuse(name, subset, revision):
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(InputError) as raised:
        read(source="org/name")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_subsets(tmp_path, monkeypatch):
    card = "---\nconfigs:\n"
    for name in ("en", "de"):
        datasets.Dataset.from_dict({"text": [name]}).to_parquet(tmp_path / f"{name}.parquet")
        card += f"- config_name: {name}\n  data_files: {name}.parquet\n"
    (tmp_path / "README.md").write_text(card + "---\n")
    real = datasets.load_dataset_builder
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda name, subset, revision: real(str(tmp_path), subset)
    )
    (en_identity, en), (de_identity, de) = (
        read(source="org/name", subset=subset) for subset in ("en", "de")
    )
    assert (en, de) == (["en"], ["de"])
    assert en_identity != de_identity
    with pytest.raises(InputError, match=r"missing\. .*'en', 'de'\]; set --config\.data\.subset"):
        read(source="org/name")
    with pytest.raises(InputError, match=r"'fr' not found\. Available: \['en', 'de'\]"):
        read(source="org/name", subset="fr")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"not installed: run `pip install datasets`"):
        read(source="org/name")


def test_saved_to_disk(tmp_path):
    rows = datasets.Dataset.from_dict({"text": TEXTS, "id": [1, 2, 3]})
    rows.save_to_disk(tmp_path / "rows", num_shards=2)
    assert read(source=str(tmp_path / "rows"))[1] == TEXTS
    shuffled = rows.select([2, 0])
    both = datasets.DatasetDict({"train": rows, "test": shuffled})
    both.save_to_disk(tmp_path / "both")
    assert read(source=str(tmp_path / "both"))[1] == TEXTS
    assert read(source=str(tmp_path / "both"), split="test")[1] == ["three", "one"]
