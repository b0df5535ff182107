"""The exported report: one HTML file and one PDF, with nothing loaded from elsewhere."""

import re
import warnings
from html.parser import HTMLParser

import nbformat
import pypdfium2
import pytest
from conftest import ROOT
from report.example_metrics import write_example
from report.test_fonts import make_font

from cddpm_core.config.errors import UserError
from cddpm_core.report import captions, tables
from cddpm_core.report.charts import training_curves
from cddpm_core.report.export import export_report
from cddpm_core.report.facts import read_facts
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


def write_notebook(path, *markdown):
    """Write an executed notebook whose only cells display these texts."""
    cells = [nbformat.v4.new_code_cell("", execution_count=1, outputs=[
        nbformat.v4.new_output("display_data", {"text/markdown": text})]) for text in markdown]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A run with made-up results, and an executed notebook that shows a few of them."""
    run = write_example(Run("tiny", outputs=tmp_path), title=TITLE, author=AUTHOR)
    run.save_figure(training_curves([]), "training_curves")
    monkeypatch.chdir(run.folder)
    facts = read_facts(run, run.params())
    write_notebook(run / "report.ipynb", "# Results\n", tables.accuracy_table(facts),
                   captions.figure(facts, "training_curves", "The curves", "Loss."))
    return run


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


def test_a_notebook_that_is_missing_or_not_executed_is_refused(short):
    with pytest.raises(UserError, match="no such notebook, first run the 'report' stage"):
        export_report(short / "other.ipynb", short)
    with pytest.raises(UserError, match="not executed"):
        export_report(ROOT / "notebooks/report.ipynb", short)


def test_a_missing_picture_is_named(short):
    write_notebook(short / "report.ipynb", "![alt](figures/gone.png)\n\n*Caption.*")
    with pytest.raises(UserError, match=r"gone\.png: no such picture"):
        export(short)


def test_characters_without_a_font_are_named_once(short, monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    short.write_params(short.params().replace(author="王 Wang"))
    with pytest.warns(UserWarning, match="no font has '王'"):
        html, _ = export(short)
    assert "王 Wang" in html


def test_chinese_comes_from_a_font_of_the_system(short):
    short.write_params(short.params().replace(author="王小明", title="條件擴散模型"))
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
    short.write_params(short.params().replace(
        title="A title", author=author, student_id="3125", language="zh",
        font_paths=[str(tmp_path / "fonts")]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        html, pdf = export(short)
    assert f"{author} · 3125" in html and '<html lang="zh">' in html
    assert "font-family: given" in html and "src: url(data:font/otf;base64," in html
    assert f"{author} · 3125" in pdf_text(pdf)
    assert b"Squares" in (short / "report.pdf").read_bytes()


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
    assert "\\frac" not in text and "$" not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
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
    # Nothing is wider than the screen of a phone.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", shade)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    assert page.locator("math").count() > 3
    page.close()
