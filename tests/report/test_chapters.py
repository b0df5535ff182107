"""The chapters of the report, which appear when they have something to say."""

import json
import re

import nbformat
import pytest
from conftest import ROOT
from report.example_metrics import BENCH, OFFICIAL, write_example

from cddpm_core.config.files import write_json
from cddpm_core.config.schema import Params
from cddpm_core.report import chapters
from cddpm_core.report.chapters import Section
from cddpm_core.report.facts import read_facts
from cddpm_core.runs.run import Run


@pytest.fixture
def facts(tmp_path):
    run = write_example(Run("tiny", outputs=tmp_path))
    return read_facts(run, run.params())


def test_a_section_without_content_has_no_heading():
    empty = Section("Empty", ("", " \n", Section("Inner", ("",))))
    assert empty.markdown() == "" == empty._repr_markdown_()
    full = Section("Full", (empty, "text\n", Section("Inner", ("more",))))
    assert full.markdown() == "# Full\n\ntext\n\n## Inner\n\nmore"


@pytest.mark.parametrize("name", ["training", "results", "denoising", "closer_look", "experiments",
                                  "with_other_runs", "speed", "discussion", "conclusion"])
def test_a_chapter_is_empty_until_its_stage_has_run(tmp_path, name):
    run = Run("new", outputs=tmp_path)
    run.write_params(Params(run="new"))
    assert getattr(chapters, name)(read_facts(run, run.params())).markdown() == ""


def test_figures_of_the_benchmark_name_its_own_evaluator(facts):
    """The report may be of a run that another one scored."""
    write_json(facts.run.outputs / "bench/bench.json", BENCH)
    facts.metrics["evaluator"] = OFFICIAL
    assert "official" in facts.origin()
    captions = re.findall(r"!\[[^]]*\]", chapters.speed(facts).markdown())
    assert len(captions) == 2
    for caption in captions:
        assert "released stand" in caption and "official" not in caption


def test_the_notebook_has_a_cell_for_each_chapter_and_saves_nothing():
    cells = nbformat.read(ROOT / "notebooks/report.ipynb", as_version=4).cells
    called = [cell.source for cell in cells if cell.source.startswith("chapters.")]
    assert [call.removeprefix("chapters.").removesuffix("(facts)") for call in called] == [
        "introduction", "implementation", "training", "results", "denoising", "closer_look",
        "experiments", "with_other_runs", "speed", "discussion", "conclusion", "published_scores",
        "appendix"]
    assert set(chapters.__all__) == {
        call.removeprefix("chapters.").removesuffix("(facts)") for call in called}
    source = json.dumps(cells)
    assert "save_figure" not in source and "update_metrics" not in source


def test_the_appendix_lists_what_was_changed_or_everything(facts):
    changed = read_facts(facts.run, facts.params.replace(author="A", epochs=7))
    short = chapters.appendix(changed).markdown()
    assert "`epochs` | `7`" in short and "`author`" in short and "`batch_size`" not in short
    every = read_facts(facts.run, facts.params.replace(all_parameters=True))
    assert "`batch_size`" in chapters.appendix(every).markdown()
