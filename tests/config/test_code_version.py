import pytest

from cddpm_core.config.code_version import code_hash

SOURCE = '''"""A module."""
from os import sep  # a comment


class A:
    """A class."""

    def f(self, x):
        """Return one more."""
        return x + 1


def g():
    """Do nothing."""


async def h():
    return 'g'
'''


@pytest.fixture
def hash_of(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def of(*sources):
        for i, source in enumerate(sources):
            (tmp_path / f"hashed_{i}.py").write_text(source)
        return code_hash(*(f"hashed_{i}" for i in range(len(sources))))
    return of


@pytest.mark.parametrize(("old", "new"), [
    ("A module.", "Another text."), ('"""A module."""\n', ""), ("  # a comment", ""),
    ("Return one more.", "Return the next.\n\n        In words."), ("\n\n\n", "\n\n\n# more\n"),
    ("    return 'g'", '    return "g"'), ('    """Do nothing."""', "    pass"),
])
def test_words_and_layout_change_nothing(hash_of, old, new):
    assert old in SOURCE
    assert hash_of(SOURCE.replace(old, new)) == hash_of(SOURCE)


@pytest.mark.parametrize(("old", "new"), [
    ("x + 1", "x + 2"), ("import sep", "import path"), ("'g'", "'h'"), ("async def", "def")])
def test_code_changes_the_hash(hash_of, old, new):
    assert hash_of(SOURCE.replace(old, new)) != hash_of(SOURCE)


def test_each_module_counts(hash_of):
    assert len(hash_of(SOURCE)) == 12
    assert hash_of(SOURCE, "a = 1") not in (hash_of(SOURCE), hash_of("a = 1", SOURCE))


def test_a_module_is_read_and_not_run(hash_of):
    assert hash_of("raise SystemExit(3)")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        code_hash("no_such_module")
