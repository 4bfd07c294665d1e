"""The fields of a config.json, read with a message for each that is missing or malformed."""

import sys
from typing import Any

from saejax.errors import InputError


class Fields:
    """A JSON object from a file.

    Args:
      values: The object.
      where: The file, for messages.
    """

    def __init__(self, values: dict[str, Any], where: object):
        self.values, self.where = values, where

    def number(self, name: str, kind: type, default: float | None = None) -> Any:
        """A finite number of type `int` or `float`; null counts as missing.

        Raises:
          InputError: If the field is no such number, or is missing and has no default.
        """
        value = self.values.get(name)
        value = default if value is None else value
        allowed = (int,) if kind is int else (int, float)
        # Neither NaN nor infinite, nor an integer that no float can hold.
        if (
            isinstance(value, bool)
            or not isinstance(value, allowed)
            or not abs(value) <= sys.float_info.max
        ):
            raise InputError(
                f"{self.where}: {name}={value!r} must be a finite number ({kind.__name__})"
            )
        return kind(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
          InputError: If the field is anything else.
        """
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {name}={value!r} must be true or false")
        return value

    def inner(self, name: str) -> "Fields":
        """An object within the object, empty if it is missing.

        Raises:
          InputError: If the field is anything but an object.
        """
        value = self.values.get(name) or {}
        if not isinstance(value, dict):
            raise InputError(f"{self.where}: {name}={value!r} must be an object")
        return Fields(value, self.where)

    def only(self, name: str, *supported: object, default: object) -> Any:
        """One of the supported values.

        Raises:
          InputError: If the field, or its default where it is missing, is none of them.
        """
        value = self.values.get(name, default)
        if value not in supported:
            listed = ", ".join(repr(each) for each in supported)
            raise InputError(
                f"{self.where}: {name}={value!r} is not supported, only {listed}: choose another "
                "model"
            )
        return value
