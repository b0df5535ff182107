"""The author's own words: text with formulas, pictures and references, and nothing else."""

import pytest
from PIL import Image
from report.example_metrics import write_example
from report.test_export import Page, export, pdf_text, write_notebook

from cddpm_core.__main__ import main
from cddpm_core.config.errors import UserError
from cddpm_core.report import chapters
from cddpm_core.report.author import author_words, init_words
from cddpm_core.report.facts import read_facts
from cddpm_core.report.title_page import title_page
from cddpm_core.runs.run import Run

DISCUSSION = """# Discussion

The scores (@tbl:accuracy) hide what @fig:mine shows [@mine2024; @ho2022]: $x_0 < \\epsilon$.

![A <picture>](<my pic [1] #2.png>){#fig:mine width=50% onclick="alert(1)"}

<script>alert(1)</script> `#panic()`{=typst} \\textbf{x} #panic() [x]{.c typst:text:fill="red"}

## Later

To do: a [link](https://example.org), [not one](javascript:alert(1)), a@b.org. Enough.
"""


@pytest.fixture
def run(tmp_path):
    run = write_example(Run("tiny", outputs=tmp_path))
    (run / "report").mkdir()
    return run


def facts(run, **changes):
    return read_facts(run, run.params().replace(**changes))


def write(run, name, text):
    (run / f"report/{name}").write_text(text, encoding="utf-8")


def test_words_are_text_with_pictures_and_references_in_both_exports(run):
    write(run, "discussion.md", DISCUSSION)
    write(run, "references.bib", "@misc{mine2024, title = {A paper of mine}, year = 2024}\n")
    Image.new("RGB", (8, 8)).save(run / "report/my pic [1] #2.png")
    found = facts(run)
    write_notebook(run / "report.ipynb", title_page(found)._repr_mimebundle_(), *(
        chapter(found).markdown() for chapter in (chapters.results, chapters.discussion)))
    html, pdf = export(run)
    page = Page(html)
    assert not page.of("script") and not [a for _, a in page.tags if "onclick" in a]
    assert {a["href"] for a in page.of("a") if ":" in a["href"] and a["href"][0] != "#"} == {
        "https://example.org"}
    assert page.text.count("Discussion") == 2  # in the contents and above the text
    assert len(page.of("img")) == 1 and page.of("img")[0]["style"].startswith("width:50")
    for text in (page.text.replace("\xa0", " "), pdf_text(pdf).replace("\xa0", " ")):
        assert "The scores (Table 1) hide what Figure 1 shows [1, 2]" in text
        assert "<script>alert(1)</script>" in text and "#panic()" in text
        assert "A paper of mine" in text and "Classifier-Free" in text
        assert "Denoising Diffusion Probabilistic" not in text and "A <picture>" in text


@pytest.mark.parametrize(("content", "words"), [
    ("@misc{mine2024, author = {Müller}}".encode("latin-1"), "cannot be read as text"),
    (b"@misc{mine2024, title = {A paper", "pandoc failed .*references.bib"),
])
def test_references_that_cannot_be_read_are_one_sentence(run, content, words):
    write(run, "discussion.md", "As in [@mine2024].")
    (run / "report/references.bib").write_bytes(content)
    found = facts(run)
    write_notebook(run / "report.ipynb", title_page(found)._repr_mimebundle_(),
                   chapters.results(found).markdown(), chapters.discussion(found).markdown())
    with pytest.raises(UserError, match=words) as error:
        export(run)
    assert "\n" not in str(error.value)


def test_they_stand_before_the_computed_sentences_or_instead_of_them(run):
    write(run, "discussion.md", "My view.")
    both = chapters.discussion(facts(run)).markdown()
    assert both.index("My view.") < both.index("objects were missed")
    alone = chapters.discussion(facts(run, computed_discussion=False)).markdown()
    assert alone == "# Discussion\n\nMy view."
    # Without own words nothing is left of the discussion, and the introduction is as it was.
    (run / "report/discussion.md").unlink()
    without = facts(run, computed_discussion=False)
    assert chapters.discussion(without).markdown() == ""
    assert chapters.conclusion(without).markdown() == ""
    assert "The task is" in chapters.introduction(without).markdown()


def test_those_of_the_run_come_before_those_beside_the_params_file(run, tmp_path):
    folder = tmp_path / "words"
    init_words(folder)
    (folder / "discussion.md").write_text("General.")
    (folder / "conclusion.md").write_text("# An end\n\nGeneral.")
    write(run, "discussion.md", "Of this run.")
    found = facts(run, words=str(folder))
    assert author_words(found, "discussion").text == "Of this run."
    assert author_words(found, "conclusion").text == "## An end\n\nGeneral."


def test_the_first_version_has_hints_that_do_not_appear(tmp_path, capsys, run):
    params = tmp_path / "my params" / "mine.yaml"
    params.parent.mkdir()
    params.write_text("run: tiny\n")
    assert main(["report", "--init", "--params", str(params)]) == 0
    names = ["introduction.md", "discussion.md", "conclusion.md", "references.bib"]
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()] == names
    folder = params.parent / "report"
    for name in ("introduction", "discussion", "conclusion"):
        assert "[@ho2020]" in (folder / f"{name}.md").read_text()
        assert author_words(facts(run, words=str(folder)), name).text == ""
    (folder / "discussion.md").write_text("Mine.")
    assert main(["report", "--init", "--params", str(params)]) == 0
    assert (folder / "discussion.md").read_text() == "Mine."


@pytest.mark.parametrize(("text", "said"), [
    ("![x](gone.png)", r"discussion\.md: .*gone\.png: no such picture"),
    ("![x](http://example.org/x.png)", "expected a picture in a file, found an address")])
def test_what_is_missing_is_named(run, text, said):
    write(run, "discussion.md", text)
    with pytest.raises(UserError, match=said):
        author_words(facts(run), "discussion")
    (run / "report/discussion.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as text in UTF-8"):
        author_words(facts(run), "discussion")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        author_words(facts(run, words="nowhere"), "discussion")
