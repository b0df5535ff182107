"""The report in another language: every text of the code has its line in the table."""

import ast
import datetime
import re

import pytest
from conftest import ROOT
from PIL import Image
from report.example_metrics import BENCH, second_verdict, write_example

from cddpm_core.config.files import write_json
from cddpm_core.config.schema import FIELDS
from cddpm_core.report import chapters, language
from cddpm_core.report.captions import CAPTIONS
from cddpm_core.report.facts import read_facts
from cddpm_core.report.language import date_text, say, speaking, table_of
from cddpm_core.runs.run import Run

CALLS = {"say": (0,), "_section": (0,), "_number": (2,)}
ELSEWHERE = ("given_scores", "verdicts", "results", "explore")  # not in the report


def texts():
    """The texts that the code of the report gives to `say`, as far as they are literal."""
    for path in sorted((ROOT / "cddpm_core/report").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())) if path.stem not in ELSEWHERE else ():
            name = getattr(getattr(node, "func", None), "id", "")
            for argument in (node.args[i] for i in CALLS.get(name, ()) if i < len(node.args)):
                yield from (part.value for part in (
                    (argument.body, argument.orelse) if isinstance(argument, ast.IfExp)
                    else (argument,)) if isinstance(part, ast.Constant))


def test_the_table_is_complete():
    wanted = {*texts(), *(part for about in CAPTIONS.values() for part in (about.alt, about.text))}
    assert len(wanted) > 200
    assert wanted - table_of("zh").keys() == set()


def test_translations_have_the_places_formulas_and_references_of_the_original():
    marks = re.compile(r"\{\w*\}|\$[^$]+\$|`[^`]+`|@(?:tbl|fig):[\w-]+|@\w+\d{4}")
    free = ("day", "month", "number", "year")  # a date has them as its language does
    for english, translated in table_of("zh").items():
        here, there = (sorted(mark for mark in marks.findall(text)
                              if mark.strip("{}") not in free) for text in (english, translated))
        assert here == there, english
    assert table_of("en") == table_of("ja") == {}


def test_only_the_language_of_a_block_is_spoken():
    day = datetime.date(2026, 3, 5)
    with speaking("zh"):
        assert say("Results") == "結果" and date_text(day) == "2026 年 3 月 5 日"
    assert say("Results") == "Results" and date_text(day) == "5 March 2026"


@pytest.fixture
def everything(tmp_path):
    """A run with all results, a second verdict and a benchmark, and another run beside it."""
    run = write_example(Run("tiny", outputs=tmp_path), language="zh", runs=["other"])
    other = write_example(Run("other", outputs=tmp_path), seed=1)
    for one in (run, other):
        one.update_metrics({"second": second_verdict(one.read("scores.json"), fewer=1)})
        for name in ("test", "new_test"):
            (one / f"images/{name}").mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (8, 8)).save(one / f"images/{name}/{i}.png")
    write_json(tmp_path / "bench/bench.json", BENCH)
    return run


def test_a_chinese_report_has_no_english_sentence(everything, monkeypatch):
    facts = read_facts(everything, everything.params())
    missed = []

    class Recorder(dict):
        def get(self, key, default=None):
            if key not in self:
                missed.append(key)
            return super().get(key, default)

    table = Recorder(table_of("zh"))
    shown = {*table.values(), *(about.help for about in FIELDS.values())}
    monkeypatch.setattr(language, "table_of", lambda code: table)
    whole = "\n".join(getattr(chapters, name)(facts).markdown() for name in chapters.__all__)
    assert whole.count("\n# ") >= 9
    # A header may be translated twice; the meaning of a new parameter may stay English.
    english = {text for text in missed if len(text.split()) > 1 and text.isascii()}
    assert english - shown == set()
