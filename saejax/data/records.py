"""The text in a record of JSON, of a table's row, or of a data set on a hub."""

from typing import Any

from saejax.errors import InputError


def record_text(record: Any, field: str, where: str) -> str:
    """A record that is a string, or the string in its field; "" where the field holds null.

    Args:
      record: As from `json.loads`.
      field: `data.text_field`.
      where: File and line, for the message.

    Raises:
      InputError: If there is no text, or one that is not valid Unicode.
    """
    text = record.get(field, record) if isinstance(record, dict) else record
    if text is None and record is not None:
        return ""
    if not isinstance(text, str):
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise InputError(
            f"data.source={where}: no text in field {field!r} (found: {found}); set "
            "--config.data.text_field"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which no tokenizer takes.
        raise InputError(
            f"data.source={where}: unpaired surrogate at character {error.start}; repair the text"
        ) from None
    return text
