"""The JSON form of a configuration, and how two of them differ."""

import dataclasses
import json
from typing import Any

from saejax.config import Config
from saejax.errors import InputError


def to_json(cfg: Config) -> str:
    """The configuration as indented JSON; `from_json` inverts it."""
    return json.dumps(dataclasses.asdict(cfg), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      InputError: For unknown or missing fields, naming them.
    """

    def build(cls: Any, values: dict[str, Any], path: str) -> Any:
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if wrong := sorted(values.keys() ^ fields.keys()):
            raise InputError(
                f"configuration fields {', '.join(path + name for name in wrong)} are unknown or "
                "missing: the file was written by another version of saejax"
            )
        made = {
            name: build(fields[name].type, value, f"{path}{name}.")
            if dataclasses.is_dataclass(fields[name].type)
            else tuple(value)
            if isinstance(value, list)
            else value
            for name, value in values.items()
        }
        return cls(**made)

    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"the configuration is not valid JSON: {error}") from None
    return build(Config, values, "")


def flatten(cfg: Config) -> dict[str, Any]:
    """Values by dotted path, as in `sae.k`."""

    def flat(values: dict[str, Any], path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, dict):
                found |= flat(value, f"{path}{name}.")
            else:
                found[path + name] = value
        return found

    return flat(dataclasses.asdict(cfg), "")


def differences(a: Config, b: Config) -> list[str]:
    """Dotted paths, with both values, of the fields in which two configurations differ."""
    flat_a, flat_b = flatten(a), flatten(b)
    return [
        f"{path}: {flat_a[path]!r} != {flat_b[path]!r}"
        for path in flat_a
        if flat_a[path] != flat_b[path]
    ]
