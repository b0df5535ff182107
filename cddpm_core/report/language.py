"""The words of the report: English as the code has it, or those of a table for its language.

The table ``assets/words/zh-Hant.yaml`` gives for each English text the one in traditional Chinese.
What it lacks stays English, as does a report in a language without a table.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from importlib import resources

import yaml

__all__ = ["date_text", "document_language", "say", "speaking", "table_of"]

# Languages that have a table, by the codes that mean them.
TABLES = dict.fromkeys(("zh", "zh-Hant", "zh-TW", "zh-HK"), "zh-Hant")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")

_words: ContextVar[Mapping[str, str] | None] = ContextVar("words", default=None)


@functools.cache
def table_of(language: str) -> Mapping[str, str]:
    """Return the translations for a language code; empty for English and where there is none."""
    if language not in TABLES:
        return {}
    path = resources.files("cddpm_core") / f"report/assets/words/{TABLES[language]}.yaml"
    return {entry["en"]: entry["zh"] for entry in yaml.safe_load(path.read_text(encoding="utf-8"))}


def document_language(language: str) -> str:
    """Return the code that a document in this language carries."""
    return TABLES.get(language, language)


@contextlib.contextmanager
def speaking(language: str) -> Iterator[None]:
    """Make `say` answer in a language."""
    token = _words.set(table_of(language))
    try:
        yield
    finally:
        _words.reset(token)


def say(english: str, **values: object) -> str:
    """Return a text in the language of the report, with the values at their ``{names}``."""
    text = (_words.get() or {}).get(english, english)
    return text.format(**values) if values else text


def date_text(day: datetime.date) -> str:
    """Return a date in words."""
    return say("{day} {month} {year}", day=day.day, month=say(MONTHS[day.month - 1]),
               number=day.month, year=day.year)
