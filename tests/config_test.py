"""The configuration: plain typed records."""

import dataclasses

from saejax.config import Config


def test_all_fields_are_typed_records_or_plain_values():
    for field in dataclasses.fields(Config):
        assert dataclasses.is_dataclass(field.type) or field.type in (int, str, tuple[int, ...])
