"""Reads tables that office programs save: semicolons or tabs, capital headers, decimal commas, UTF-16."""

from __future__ import annotations

import codecs


def decoded(content: bytes) -> str:
    """The text of a table: UTF-16 with a mark at its start, as "Unicode text" is saved, else UTF-8.

    Raises:
        UnicodeDecodeError: neither of the two, or a NUL, which no table holds.
    """
    code = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    text = content.decode(code).removeprefix("\ufeff")
    if "\0" in text:
        raise UnicodeDecodeError(code, content, 0, len(content), "a NUL")
    return text


def divided(text: str) -> tuple[str, str]:
    """The separator of a table (comma, semicolon or tab), and the table without a line "sep=;".

    The first line decides: semicolons and tabs are in no header, commas may be in numbers.
    """
    first, _, rest = text.partition("\n")
    mark = first.strip().strip('"').lower()
    if mark.startswith("sep=") and len(mark) <= 5:
        return (first.strip("\r").strip('"')[4:5] or "\t"), rest
    return next((mark for mark in "\t;" if mark in first), ","), text


def column(name: str) -> str:
    """The name of a column in our form: small letters, no spaces around, "_" for "-" and spaces."""
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def number(text: str, separator: str) -> str:
    """A number with a decimal point; where commas do not separate columns, one comma may be the point."""
    return text.replace(",", ".") if separator != "," and text.count(",") == 1 else text
