import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from cddpm_core.config.errors import UserError
from cddpm_core.report.fonts import font_faces, font_files, warn_of_missing_glyphs

NAME = "王小明"


@pytest.fixture
def no_system_fonts(monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])


def box(height):
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for point in ((950, 0), (950, 700 + height), (50, 700 + height)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def make_font(path, characters):
    """Write a font in which each of the characters is a box."""
    path.parent.mkdir(exist_ok=True)
    names = [".notdef", *(f"uni{ord(c):04X}" for c in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(c): f"uni{ord(c):04X}" for c in characters})
    font.setupGlyf({name: box(height) for height, name in enumerate(names)})
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": path.stem, "styleName": "Regular", "psName": path.stem})
    font.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    font.save(path)
    return path


def test_missing_characters_are_named_unless_a_given_font_has_them(tmp_path, no_system_fonts):
    font = make_font(tmp_path / "Squares.ttf", "王小")
    with pytest.warns(UserWarning, match="no font has '明'"):
        warn_of_missing_glyphs(f"A title by {NAME}", [font])
    with pytest.warns(UserWarning, match="no font has '小明王'"):
        warn_of_missing_glyphs(NAME, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_missing_glyphs("Zoë Ωmega – Жук", [])
        warn_of_missing_glyphs(NAME, [font, make_font(tmp_path / "More.ttf", "明")])


def test_only_glyphs_that_are_needed_are_carried(tmp_path):
    first, second = make_font(tmp_path / "a.ttf", "王小国"), make_font(tmp_path / "b.ttf", "小明")
    css = font_faces(f"by {NAME}", [first, second])
    assert css.count("@font-face") == 2
    assert "U+5C0F, U+738B" in css and "U+660E;" in css and "U+56FD" not in css
    assert font_faces("plain", [first]) == ""


def test_fonts_are_found_in_files_and_folders(tmp_path):
    font = make_font(tmp_path / "a.ttf", "王")
    (tmp_path / "notes.txt").write_text("no font")
    assert font_files([str(tmp_path)]) == font_files([str(font)]) == [font]
    (tmp_path / "empty").mkdir()
    for path in ("gone.ttf", "empty", "notes.txt"):
        with pytest.raises(UserError, match="font_paths: .* contains no font"):
            font_files([str(tmp_path / path)])


def test_a_damaged_font_has_no_glyph(tmp_path, no_system_fonts):
    (tmp_path / "bad.ttf").write_bytes(b"no font at all")
    (tmp_path / "bad.ttc").write_bytes(b"")
    whole = make_font(tmp_path / "whole.ttf", "王").read_bytes()
    (tmp_path / "whole.ttf").unlink()
    for length in range(100, len(whole), 40):
        (tmp_path / f"cut{length}.ttf").write_bytes(whole[:length])
    with pytest.warns(UserWarning, match="no font has"):
        warn_of_missing_glyphs(NAME, font_files([str(tmp_path)]))
    font_faces(NAME, font_files([str(tmp_path)]))
