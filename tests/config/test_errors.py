"""The sentence of a user's mistake."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError


@given(st.text())
def test_a_sentence_is_one_line_that_every_terminal_can_print(name):
    said = str(UserError(f"no image {name} (expected .png)"))
    assert said.isprintable() and said.encode("utf-8")


def test_a_name_with_a_line_end_and_a_colour_code_is_shown_as_escapes():
    assert str(UserError("a\n\x1b[31m紅 é.png")) == "a\\n\\x1b[31m紅 é.png"
