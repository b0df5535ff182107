"""The exported report: one HTML file and one PDF, with nothing loaded from elsewhere."""

import base64
import glob
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import nbformat
import pypdfium2
import pytest
from conftest import ROOT
from nbconvert import HTMLExporter
from report.example_metrics import write_example
from report.test_fonts import make_font

from cddpm_core.config.errors import UserError
from cddpm_core.report import captions, tables
from cddpm_core.report.export import LabReportHTML, LabReportPDF, export_report
from cddpm_core.report.facts import read_facts
from cddpm_core.report.title_page import title_page
from cddpm_core.report.training_charts import training_curves
from cddpm_core.runs.run import Run

TITLE = 'A <b>bold</b> *title* & $5 "quoted" #1 \\ [x](y)'
AUTHOR = "Zoë O'Neill_Smith | @lab"


class Page(HTMLParser):
    """The tags and the text of an HTML page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def pdf_text(document):
    pages = [page.get_textpage().get_text_range() for page in document]
    return re.sub(r"\s+", " ", " ".join(pages).replace("\ufffe", "").replace("\u2010", "-"))


def write_notebook(path, *shown):
    """Write an executed notebook whose only cells display these texts, or other data."""
    cells = [nbformat.v4.new_code_cell("", execution_count=1, outputs=[
        nbformat.v4.new_output("display_data", {"text/markdown": part} if isinstance(part, str)
                               else part)]) for part in shown]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A run with made-up results, and an executed notebook that shows a few of them."""
    run = write_example(Run("tiny", outputs=tmp_path), title=TITLE, author=AUTHOR)
    run.save_figure(training_curves([]), "training_curves")
    write_report(run)
    return run


def write_report(run, *more, **changes):
    """Write an executed report notebook of a run, with its parameters changed."""
    run.write_params(run.params().replace(**changes))
    facts = read_facts(run, run.params())
    write_notebook(
        run / "report.ipynb", title_page(facts)._repr_mimebundle_(), "# Results\n",
        tables.accuracy_table(facts), captions.figure(facts, "training_curves"), *more)


def export(run):
    html, pdf = export_report(run / "report.ipynb", run)
    assert (html, pdf) == (run / "report.html", run / "report.pdf")
    return html.read_text(encoding="utf-8"), pypdfium2.PdfDocument(pdf)


def test_title_and_author_appear_as_given(short):
    html, pdf = export(short)
    page = Page(html)
    assert TITLE in page.text and AUTHOR in page.text and not page.of("b")
    text = pdf_text(pdf)
    assert TITLE in text and AUTHOR in text
    assert pdf.get_metadata_dict()["Title"] == TITLE
    micro = f"{short.read('metrics.json')['test']['micro']:.3f}"
    assert micro in page.text and micro in text
    assert len(page.of("figcaption")) == len(page.of("img")) == 1


def test_course_date_and_abstract_stand_below_the_title(short):
    write_report(short, course="Deep *Learning* 5", date="yesterday",
                 abstract="Short, with $x_0$ and a citation [@ho2020].")
    html, pdf = export(short)
    for text in (Page(html).text, pdf_text(pdf)):
        assert "Deep *Learning* 5" in text and "yesterday" in text
        assert re.search(r"Abstract\s+Short, with", text) and "a citation [1]." in text
        assert "Denoising Diffusion Probabilistic Models" in text


def test_a_notebook_that_is_missing_or_not_executed_is_refused(short):
    with pytest.raises(UserError, match="no such notebook, first run the 'report' stage"):
        export_report(short / "other.ipynb", short)
    with pytest.raises(UserError, match="not executed"):
        export_report(ROOT / "notebooks/report.ipynb", short)


@pytest.mark.parametrize(("target", "said"), [
    ("figures/training_curve.png", r"no such picture \(did you mean 'training_curves.png'"),
    ("https://example.org/a.png", "expected a picture in a file, found an address"),
    ("params.yaml", "not a readable picture"), ("data:image/png;base64,x", "not a readable")])
def test_a_picture_that_cannot_be_shown_is_named(short, target, said):
    write_report(short, f"![alt]({target})\n\n*Caption.*")
    with pytest.raises(UserError, match=said):
        export(short)


def test_jupyter_writes_the_same_files(short):
    """Also in a folder of odd characters; a mistake ends with one sentence."""
    pages = [page.read_bytes() for page in export_report(short / "report.ipynb", short)]
    odd = short / "My Drive [1] #2 50% 'q' 資料"
    odd.mkdir()
    shutil.copy(short / "report.ipynb", odd / "the report.ipynb")
    for kind, page in zip(("html", "pdf"), pages, strict=True):
        done = nbconvert(f"lab_report_{kind}", odd / "the report.ipynb")
        assert done.returncode == 0, done.stderr
        assert (odd / f"the report.{kind}").read_bytes() == page
    write_report(short, "see @fig:training-curve")
    done = nbconvert("lab_report_html", short / "report.ipynb")
    said = done.stderr.splitlines()[-1]  # below what nbconvert logs of it
    assert done.returncode == 1
    assert said.endswith("no such figure in the report (did you mean 'fig:training-curves'?)")


def nbconvert(kind, notebook):
    # Jupyter takes the path for a pattern.
    return subprocess.run([sys.executable, "-m", "jupyter", "nbconvert", "--to", kind,
                           glob.escape(str(notebook))], capture_output=True, text=True)


def test_a_run_in_a_folder_of_any_name_is_exported(tmp_path):
    run = write_example(Run("tiny", outputs=tmp_path / "My Drive [1] #2 50% \"q\" 資料"))
    run.save_figure(training_curves([]), "training_curves")
    write_report(run)
    html, pdf = export(run)
    assert len(Page(html).of("img")) == 1 and pictures(pdf) == 1


def pictures(pdf):
    return sum(len(list(page.get_objects([pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]))) for page in pdf)


def test_characters_without_a_font_are_named_once(short, monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    write_report(short, author="王 Wang")
    with pytest.warns(UserWarning, match="no font has '王'"):
        html, _ = export(short)
    assert "王 Wang" in html


def test_chinese_comes_from_a_font_of_the_system(short):
    write_report(short, author="王小明", title="條件擴散模型")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        html, pdf = export(short)
    if any("no font has" in str(warning.message) for warning in caught):
        pytest.skip("no Chinese font here, Debian's package 'fonts-noto-cjk' brings one")
    assert "王小明" in html and "條件擴散模型 王小明" in pdf_text(pdf)
    # The font; boxes have the same text behind them.
    assert b"CJK" in (short / "report.pdf").read_bytes()


def test_characters_of_a_given_font_are_in_both(short, monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    author = "王小明\U000F1234"  # the last of which no real font has
    make_font(tmp_path / "fonts" / "Squares.ttf", author)
    write_report(short, title="A title", author=author, student_id="3125", language="fr",
                 font_paths=[str(tmp_path / "fonts")])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        html, pdf = export(short)
    assert f"{author} · 3125" in html and '<html lang="fr" dir="ltr">' in html
    assert "font-family: given" in html and "src: url(data:font/otf;base64," in html
    assert f"{author} · 3125" in pdf_text(pdf)
    assert b"Squares" in (short / "report.pdf").read_bytes()


@pytest.mark.parametrize(("language", "words"), [
    ("en", ("Contents", "Figure 1.", "Table 1.")), ("ar", ("Contents", "Figure 1.", "Table 1.")),
    ("zh", ("目錄", "圖 1。", "表 1。"))])
def test_words_of_both_exports_come_from_one_table(short, language, words):
    write_report(short, language=language)
    html, pdf = export(short)
    read = re.sub(r"\s+", " ", pdf_text(pdf))
    # pdfium turns around what it reads in a document whose language is written leftwards.
    for text in (Page(html).text, *([read] if language != "ar" else [])):
        assert all(word in text.replace("\xa0", " ") for word in words), text[:500]
    code = {"zh": "zh-Hant"}.get(language, language)
    assert f'<html lang="{code}" dir="ltr">' in html and "Abbildung" not in html


# The report of a run of all stages.


@pytest.fixture(scope="module")
def html(smoke):
    return (smoke / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pdf(smoke):
    return pypdfium2.PdfDocument(smoke / "report.pdf")


def test_html_loads_nothing_from_elsewhere(html):
    page = Page(html)
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "poster")
                 if a.get(key)]
    assert addresses and all(a.startswith(("data:image/png", "#")) for a in addresses)
    assert all(a[1:] in {tag.get("id") for _, tag in page.tags} for a in addresses
               if a.startswith("#"))
    assert "@import" not in html and not re.search(r"url\((?!data:)", html)
    assert len(html) < 20e6


def test_every_figure_has_alt_text_and_caption(html):
    page, origin = Page(html), "rendered scenes; released stand-in evaluator"
    images = page.of("img")
    assert len(images) == len(page.of("figcaption")) == len(page.of("figure")) > 15
    assert all(origin in image["alt"] for image in images)
    assert any(image.get("class") == "pixels" for image in images)


def test_formulas_are_mathml(html):
    assert len(Page(html).of("math")) > 15
    visible = re.sub(r"<annotation.*?</annotation>", "", html, flags=re.S)
    assert "\\frac" not in visible and "$$" not in visible


def test_contents_link_to_sections(html):
    page = Page(html)
    identifiers = {a["id"] for _, a in page.tags if a.get("id")}
    links = [a["href"][1:] for a in page.of("a") if a["href"].startswith("#")]
    assert len(links) > 10 and set(links) <= identifiers


def test_both_files_have_the_numbers_of_the_metrics(html, pdf, smoke):
    metrics = smoke.read("metrics.json")
    for text in (Page(html).text, pdf_text(pdf)):
        for name in ("test", "new_test"):
            part = metrics[name]
            assert f"{part['micro']:.3f}" in text and f"{part['macro']:.3f}" in text
            assert f"{part['hits']} of {part['objects']}" in text
        assert f"{metrics['evaluator']['heldout_micro']:.3f}" in text
        assert metrics["data"]["sha256"] in text and metrics["evaluator"]["sha256"] in text
        assert metrics["made_with"]["machine"] in text
        assert "has not been run yet" not in text


def test_pdf_has_contents_numbered_headings_and_page_numbers(pdf):
    text = pdf_text(pdf)
    assert len(pdf) > 5
    assert pdf[len(pdf) - 1].get_textpage().get_text_range().split()[-1] == str(len(pdf))
    for heading in ("Contents", "1 Introduction", "4 Results", "Figure 1.", "Table 1.",
                    "References", "Appendix: provenance"):
        assert heading in text
    assert not [mark for mark in ("@fig:", "@tbl:", "[@", "\\frac", "$") if mark in text]


def test_no_heading_stands_alone(html):
    """Between a heading and the next of its level or above there is something to read."""
    parts = re.split(r"<h([12])[^>]*>", html[html.index("<main>"):])[1:]
    levels, bodies = parts[::2], [part.partition("</h")[2] for part in parts[1::2]]
    assert len(levels) > 15
    for index, (level, body) in enumerate(zip(levels, bodies, strict=True)):
        shown = re.search(r"<(p|ul|img|table|math)\b|csl-entry", body)
        assert shown or levels[index + 1] > level, parts[2 * index + 1][:80]


def test_each_figure_and_table_is_numbered_once(html):
    for kind, tag in (("Figure", "figcaption"), ("Table", "caption")):
        numbers = re.findall(rf"<{tag}[^>]*>\s*(?:<p>)?<strong>{kind} (\d+)\.</strong>", html)
        assert numbers == [str(n + 1) for n in range(len(numbers))] and len(numbers) > 5


def test_only_what_is_cited_is_listed(html):
    listed = re.findall(r'id="ref-(\w+)"', html)
    cited = set(re.findall(r'href="#ref-(\w+)"', html))
    assert set(listed) == cited and "ho2020" in cited and "dhariwal2021" not in cited


def test_a_chapter_alone_is_a_page_with_what_was_added_to_it(smoke_copy):
    """Cells of the user: an attachment, a file beside the notebook, and text that is no HTML."""
    path = smoke_copy / "train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    picture = (smoke_copy / "images/test/0.png").read_bytes()
    (smoke_copy / "my pic #1 50%.png").write_bytes(picture)
    mine = nbformat.v4.new_markdown_cell(
        "## Mine\n\n![](attachment:my%20own.png)\n\n![What I saw](<my pic #1 50%.png>)\n\n"
        "<script>alert(1)</script> [x](javascript:alert(1)) see @training\n\n## Nothing here")
    mine["attachments"] = {"my own.png": {"image/png": base64.b64encode(picture).decode()}}
    notebook.cells.append(mine)
    nbformat.write(notebook, path)
    with pytest.warns(UserWarning, match="@training: no such entry"):
        html, _ = LabReportHTML().from_filename(str(path))
    page = Page(html)
    assert page.of("title") and "<title>Training</title>" in html and not page.of("script")
    assert "<script>alert(1)</script> x see @training" in page.text
    assert "Nothing here" not in page.text and "Mine" in page.text
    assert len(page.of("img")) >= 8 and len(page.of("figcaption")) == 1
    assert all(image["alt"] and image["src"].startswith("data:") for image in page.of("img"))
    with pytest.warns(UserWarning):
        pdf, _ = LabReportPDF().from_filename(str(path))
    assert pictures(pypdfium2.PdfDocument(pdf)) == len(page.of("img"))


def test_jupyters_own_html_shows_the_pictures_too(smoke, html):
    page = Page(HTMLExporter().from_filename(str(smoke / "report.ipynb"))[0])
    assert len([image for image in page.of("img") if image["src"].startswith("data:image/png")]
               ) == len(Page(html).of("img"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (820, 1180), (1440, 900)])
def test_a_browser_shows_everything_without_requests(chromium, html, smoke, width, height, scheme):
    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((smoke / "report.html").as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert complaints == []
    figures = page.locator("figure:has(img)")
    assert figures.count() == len(re.findall("<figure", html)) > 5
    for figure in figures.all():
        image = figure.locator("img")
        assert image.evaluate("i => i.complete && i.naturalWidth > 0 && i.clientWidth > 0")
        assert image.get_attribute("alt") and figure.locator("figcaption").inner_text().strip()
    # Nothing is wider than the screen of a phone, and the title is what is seen first.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    title, contents = page.locator("h1.title").bounding_box(), page.locator("nav > ul")
    assert title["y"] + title["height"] < height / 2
    assert contents.is_visible() == (width >= 1216)
    if not contents.is_visible():
        page.locator("nav > label").click()
        assert contents.is_visible()
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", shade)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    ground = page.locator("figure img").first.evaluate("i => getComputedStyle(i).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert page.locator("math").count() > 3
    page.close()


def test_a_figure_opens_large_at_a_tap_and_closes_again(chromium, html, smoke):
    page = chromium.new_page(viewport={"width": 1000, "height": 800})
    page.goto((smoke / "report.html").as_uri())
    link = page.locator("a.zoom").nth(2)
    small = link.locator("img").bounding_box()["width"]
    link.click()
    assert link.bounding_box() == {"x": 0, "y": 0, "width": 1000, "height": 800}
    assert link.locator("img").bounding_box()["width"] > small
    page.mouse.click(500, 400)
    page.wait_for_function("!document.querySelector('a.zoom:target')")
    assert link.locator("img").bounding_box()["width"] == small
    page.close()
