"""The exported report: the numbers of metrics.json, in one file each, and nothing from outside."""

import re
import warnings
from html.parser import HTMLParser

import nbformat
import papermill
import pypdfium2
import pytest
import torch
from conftest import ROOT
from test_analysis_text import ANALYSE, ARMS
from test_fonts import make_font

from cddpm_core import findings, methods, tables
from cddpm_core.analysis_charts import quartile_figure
from cddpm_core.charts import accuracy_bars, training_curves
from cddpm_core.compare import Group
from cddpm_core.data import ConditionDataset
from cddpm_core.errors import UserError
from cddpm_core.evaluator import score
from cddpm_core.facts import read_facts, score_facts
from cddpm_core.figures import grid_image, marked_grid
from cddpm_core.labels import OBJECTS
from cddpm_core.params import Params
from cddpm_core.pipeline import EXPERIMENTS
from cddpm_core.report import export_report
from cddpm_core.runs import HEADLESS, OUTPUTS, Run, write_json

TITLE = 'A <b>bold</b> *title* & $5 "quoted" #1 \\ [x](y)'
AUTHOR = "Zoë O'Neill_Smith | @lab"
DATA = {"kind": "rendered", "sha256": "d" * 64, "images": 36,
        "objects_per_image": {"1": 12, "2": 12, "3": 12},
        "per_object": dict.fromkeys(OBJECTS, 3), "label_sets": 30,
        "overlap": {"test": {"sets": 32, "seen": 3}, "new_test": {"sets": 32, "seen": 4}},
        "left_out": 7, "reference": [
            {"file": "real_<0>.png", "objects": ["red cube"], "difference": 1.51,
             "difference_in_boxes": 3.26},
            {"file": "real_1.png", "objects": ["red cube", "cyan sphere"], "difference": 1.74,
             "difference_in_boxes": 2.98}],
        "pixel_mean": [-0.031, -0.052, -0.063], "pixel_std": [0.141, 0.152, 0.163]}
EVALUATOR = {"kind": "stand-in", "sha256": "e" * 64, "known": True, "heldout_micro": 0.9876,
             "heldout_macro": 0.98, "heldout_images": 1000, "heldout_augmented_micro": 0.97,
             "heldout_crowded_micro": 0.96}
TRAIN = {"images_per_second": 81.5, "seconds": 754.2, "steps": 1234, "images": 39488,
         "loss": 0.0421, "parameters": 3_123_456, "device": "cpu", "finished": True}


def execute(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OUTPUTS, str(run.outputs))
        patch.setenv(HEADLESS, "1")
        papermill.execute_notebook(
            str(ROOT / "notebooks/report.ipynb"), str(run / "report.ipynb"), kernel_name="python3",
            parameters=run.params().to_dict(), progress_bar=False, cwd=str(ROOT))
    return run


BENCH = {
    **{name: {"what": f"way one of {name} | against way two",
              "ratio": {"median": 12.5, "least": 11.75, "greatest": 13.25},
              "seconds": {"one": [2.0], "two": [1.0]}, "peak_mib": {"one": 1234.5, "two": 678.0}}
       for name in ("rendering", "training_vs_plain_loop", "sampling_vs_seed_loop")},
    "run": "quick", "data": "rendered", "repeats": 3,
    "arithmetic": {"training_flops_per_image": 1.25e9, "training_flops_per_second": 1.1e11,
                   "matrix_flops_per_second": {"float32": 1.3e11, "bfloat16": 2.2e11},
                   "arithmetic": "bfloat16"},
    "scale": {"training": [{"grows": key, "value": 64, "seconds_per_image": 0.01,
                            "parameters": 5, "peak_mib": 900.0}
                           for key in ("class_emb_size", "image_size", "batch_size")],
              "sampling": [{"grows": "num_inference_steps", "value": 20,
                            "seconds_per_image": 0.08, "parameters": 5, "peak_mib": 900.0}]},
    "made_with": {"machine": "a processor, 2 cores, 24 GiB"}}
BENCH["sampling_vs_seed_loop"]["micro"] = {
    "evaluator": EVALUATOR, "ours": 0.8125, "seed_loop": 0.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with made-up measurements in all its files, and its executed report."""
    run = Run("tiny", outputs=tmp_path_factory.mktemp("outputs"))
    params = Params(run="tiny", title=TITLE, author=AUTHOR)
    run.write_params(params)
    scores, grids = {}, {}
    for seed, name in enumerate(("test", "new_test")):
        generator = torch.Generator().manual_seed(seed)
        conditions = ConditionDataset(name)
        scores[name] = score(conditions.labels + torch.randn(32, 24, generator=generator),
                             conditions.label_sets)
        grids[name] = torch.rand(32, 3, 64, 64, generator=generator) * 2 - 1
    arms = [{"num_train_timesteps": T, "num_inference_steps": 25, "epochs": 6, "finished": True,
             "loss": 0.05, "seconds": 100.0, "test": {"micro": micro, "macro": 0.5},
             "new_test": {"micro": 0.25, "macro": 0.5}} for T, micro in ((1000, 0.5), (2000, 0.75))]
    run.update_metrics({
        "data": DATA, "evaluator": EVALUATOR, "train": TRAIN,
        **{name: score_facts(scored) for name, scored in scores.items()},
        "sample": {"images_per_second": 3.21, "num_inference_steps": 25,
                   "sampler": "dpm_solver++", "guidance_scale": 3.0},
        "timesteps": {"objects": {"test": 72, "new_test": 84}, "arms": arms},
        "analyse": ANALYSE, "sampling": {"objects": 156, "arms": ARMS},
    })
    write_json(run / "scores.json", scores)
    write_json(run.outputs / "bench/bench.json", BENCH)
    run.set_stage("train", "done", seconds=754.2)
    for name, images in grids.items():
        (run / "figures").mkdir(exist_ok=True)
        grid_image(images).save(run / f"figures/{name}_grid.png")
        run.save_figure(marked_grid(images, scores[name]["conditions"]), f"{name}_marked")
    run.save_figure(accuracy_bars(scores), "accuracy_bars")
    run.save_figure(training_curves([]), "training_curves")
    run.save_figure(quartile_figure(ANALYSE["quartiles"]), "analyse_quartiles")
    return execute(run)


@pytest.fixture(scope="module")
def exported(finished):
    html, pdf = export_report(finished / "report.ipynb", finished)
    assert (html, pdf) == (finished / "report.html", finished / "report.pdf")
    return html.read_text(encoding="utf-8"), pypdfium2.PdfDocument(pdf)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of which no stage has run, and its executed report."""
    run = Run("begun", outputs=tmp_path_factory.mktemp("outputs"))
    run.write_params(Params(run="begun"))
    return execute(run)


class Page(HTMLParser):
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


def test_html_asks_no_host_for_anything(exported):
    page = Page(exported[0])
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "poster")
                 if a.get(key)]
    assert addresses and all(a.startswith(("data:image/png", "#")) for a in addresses)
    assert "@import" not in exported[0] and not re.search(r"url\((?!data:)", exported[0])
    assert len(exported[0]) < 10e6


def test_html_has_every_figure_with_alt_text_and_caption(exported, finished):
    page = Page(exported[0])
    images = page.of("img")
    assert len(images) == len(list((finished / "figures").glob("*.png"))) == 9
    assert len(page.of("figcaption")) == len(page.of("figure")) == len(images)
    for image in images:
        assert "rendered scenes" in image["alt"] and "0.988 micro on held-out" in image["alt"]
    assert [i.get("class") for i in images].count("pixels") == 2


def test_html_formulas_are_mathml(exported):
    page = Page(exported[0])
    assert len(page.of("math")) > 15
    visible = re.sub(r"<annotation.*?</annotation>", "", exported[0], flags=re.S)
    assert "\\frac" not in visible and "$$" not in visible


def test_html_contents_lead_to_sections(exported):
    page = Page(exported[0])
    identifiers = {a["id"] for _, a in page.tags if a.get("id")}
    links = [a["href"][1:] for a in page.of("a") if a["href"].startswith("#")]
    assert len(links) > 10 and set(links) <= identifiers


def test_both_have_the_numbers_of_the_metrics(exported, finished):
    metrics = finished.read("metrics.json")
    for text in (Page(exported[0]).text, pdf_text(exported[1])):
        for name in ("test", "new_test"):
            part = metrics[name]
            assert f"{part['micro']:.3f}" in text and f"{part['macro']:.3f}" in text
            assert f"{part['hits']} of {part['objects']}" in text
        assert "0.988" in text and "39,488" in text and "3.21 images a second" in text
        assert "by 0.250 (18 of 72 objects)" in text
        assert "7 images whose label set" in text and "left out of training" in text
        assert "no training image shows exactly" in text
        assert "3 objects were found by fitting" in text and "at most 1.74 of 255" in text
        assert "at most 3.26 inside" in text and "real_<0>.png" in text
        assert "2,188" in text and "31 of 32" in text
        assert DATA["sha256"] in text and EVALUATOR["sha256"] in text
        assert "12.5 (11.8 to 13.2)" in text and "1,234 and 678" in text
        assert "a processor, 2 cores, 24 GiB" in text and "ours: 0.812" in text


def test_pdf_is_typeset_with_contents_headings_and_page_numbers(exported):
    document = exported[1]
    text = pdf_text(document)
    assert len(document) > 5
    assert document[len(document) - 1].get_textpage().get_text_range().split()[-1] == str(
        len(document))
    for heading in ("Contents", "1 Introduction", "2.3 Noise schedule", "4 Results", "Figure 1.",
                    "6 A closer look", "8 Experiment: how to draw", "9 Runs side by side",
                    "10 Speed", "11 Discussion", "Table 1.", "References", "Appendix: provenance"):
        assert heading in text
    assert "\\frac" not in text and "$" not in text.replace("$5", "")


def test_title_and_author_stand_as_they_were_given(exported):
    page = Page(exported[0])
    assert TITLE in page.text and AUTHOR in page.text and not page.of("b")
    text = pdf_text(exported[1])
    assert TITLE in text and AUTHOR in text
    assert exported[1].get_metadata_dict()["Title"] == TITLE


def test_a_stage_that_has_not_run_is_said_with_its_command(begun):
    html, pdf = export_report(begun / "report.ipynb", begun)
    text = Page(html.read_text(encoding="utf-8")).text
    for stage in ("data", "train", "evaluate", "denoise", "analyse"):
        assert f"The stage {stage} has not been run yet: python -m cddpm_core stage {stage}" in text
    for stage in EXPERIMENTS:
        assert f"The stage {stage} has not been run yet: python -m cddpm_core report" in text
        assert f"-p experiments '[{stage}]'" in text
    assert len(pypdfium2.PdfDocument(pdf)) > 1


def test_a_notebook_that_is_missing_or_not_executed_is_refused(tmp_path, begun):
    with pytest.raises(UserError, match="no such notebook, first run the 'report' stage"):
        export_report(tmp_path / "report.ipynb", begun)
    with pytest.raises(UserError, match="not executed"):
        export_report(ROOT / "notebooks/report.ipynb", begun)


def test_a_picture_that_is_gone_is_named(tmp_path, begun):
    cell = nbformat.v4.new_code_cell("", execution_count=1, outputs=[nbformat.v4.new_output(
        "display_data", {"text/markdown": "![alt](figures/gone.png)\n\n*Caption.*"})])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "report.ipynb")
    with pytest.raises(UserError, match=r"gone\.png: no such picture"):
        export_report(tmp_path / "report.ipynb", begun)


def test_characters_no_font_has_are_named_once(begun, monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    begun.write_params(begun.params().replace(author="王 Wang"))
    with pytest.warns(UserWarning, match="no font has '王'"):
        html, _ = export_report(begun / "report.ipynb", begun)
    assert "王 Wang" in html.read_text(encoding="utf-8")


def test_chinese_comes_from_a_font_of_the_system(begun):
    begun.write_params(begun.params().replace(author="王小明", title="條件擴散模型", font_paths=[]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        html, pdf = export_report(begun / "report.ipynb", begun)
    if any("no font has" in str(warning.message) for warning in said):
        pytest.skip("no Chinese font here, Debian's package 'fonts-noto-cjk' brings one")
    assert "王小明" in html.read_text(encoding="utf-8")
    assert "條件擴散模型 王小明" in pdf_text(pypdfium2.PdfDocument(pdf))
    assert b"CJK" in pdf.read_bytes()  # the font; boxes have the same text behind them


def test_characters_of_a_given_font_stand_in_both(begun, monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    nobody_has = "\U000F1234"
    make_font(tmp_path / "fonts" / "Squares.ttf", f"王小明{nobody_has}")
    author = f"王小明{nobody_has}"
    begun.write_params(begun.params().replace(title="A title", author=author, student_id="3125",
                                              language="zh", font_paths=[str(tmp_path / "fonts")]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        html, pdf = export_report(begun / "report.ipynb", begun)
    page = html.read_text(encoding="utf-8")
    assert f"{author} · 3125" in page and '<html lang="zh">' in page
    assert "font-family: given" in page and "src: url(data:font/otf;base64," in page
    assert f"{author} · 3125" in pdf_text(pypdfium2.PdfDocument(pdf))
    assert b"Squares" in pdf.read_bytes()


def test_errors_are_told_apart_by_what_was_seen_instead():
    conditions = [
        {"labels": ["red cube", "blue sphere"], "predicted": ["blue cube", "red sphere"]},
        {"labels": ["red cube"], "predicted": ["red cylinder"]},
        {"labels": ["red cube", "gray sphere"], "predicted": ["gray sphere", "blue cylinder"]},
    ]
    kinds = findings.error_kinds({"conditions": conditions})
    assert kinds == {"colour": 2, "shape": 1, "both": 1}


def test_the_hardest_conditions_come_first(finished):
    facts = read_facts(finished, finished.params())
    rows = tables.condition_table(facts, "test", most=32).splitlines()[2:]
    accuracies = [float(row.split("|")[2]) for row in rows if row.startswith("|")]
    assert accuracies == sorted(accuracies) and accuracies[-1] < 1


def test_images_the_evaluator_helped_to_draw_are_said_to_be_so(finished):
    facts = read_facts(finished, finished.params().replace(evaluator_guidance=2.0))
    assert "with guidance by that evaluator" in facts.origin()
    assert "with guidance by that evaluator" in tables.accuracy_table(facts)
    assert "with guidance by that evaluator" in tables.figure(facts, "test_grid", "alt", "caption")
    assert "also guides them" in methods.sampling_text(facts.params)
    assert "takes no part in sampling" in methods.sampling_text(finished.params())
    assert "guidance by that evaluator" not in findings.result_text(facts)
    facts.metrics["sample"]["evaluator_guidance"] = 2.0
    assert "Images drawn with guidance by that evaluator" in findings.result_text(facts)
    table = tables.runs_table(read_facts(finished, finished.params()), [Group((facts,))])
    assert "those with `evaluator_guidance` were drawn with guidance" in table


def test_a_choice_among_candidates_is_said_with_what_the_first_would_have_scored(finished):
    plain = read_facts(finished, finished.params())
    facts = read_facts(finished, plain.params.replace(candidates=4))
    for name in ("test", "new_test"):
        facts.metrics[name]["first"] = {"micro": 0.1234, "macro": 0.2346}
    assert "of 4 images for each label set" in tables.accuracy_table(facts)
    assert "0.123" in tables.accuracy_table(facts) and "0.235" in tables.accuracy_table(facts)
    assert "chosen by the network itself from 4" in findings.result_text(facts)
    assert "0.123" in findings.result_text(facts)
    assert "the network itself keeps one of them" in methods.sampling_text(facts.params)
    for text in (tables.accuracy_table(plain), findings.result_text(plain),
                 methods.sampling_text(plain.params)):
        assert "chosen by the network" not in text and "the network itself" not in text


def test_the_text_on_the_network_says_what_it_is_told_of_places(finished):
    facts = read_facts(finished, finished.params())
    assert "told where each object is to stand" in methods.model_text(facts)
    assert "of 4 scenes that it draws" in methods.model_text(facts)
    assert "the clearest of 4 training scenes" in tables.accuracy_table(facts)
    first = read_facts(finished, finished.params().replace(layout_choices=1))
    assert "scenes that it draws" not in methods.model_text(first)
    assert "clearest" not in tables.accuracy_table(first)
    facts.metrics["train"] = {**facts.metrics["train"], "layouts": 0}
    assert "none are known and none used" in methods.model_text(facts)
    assert "clearest" not in tables.accuracy_table(facts)
    without = read_facts(finished, finished.params().replace(layout=False))
    assert "layout" not in methods.model_text(without)
    assert "to stand" not in methods.model_text(without)


def test_guidance_in_an_interval_is_said_with_its_bounds():
    text = methods.sampling_text(Params(guidance_interval=[0.1, 0.8]))
    assert "from 0.1 to 0.8 of $T$, and without guidance at the others" in text


def test_an_official_evaluator_and_real_data_are_named_so(finished):
    facts = read_facts(finished, finished.params())
    facts.metrics["evaluator"] = {**EVALUATOR, "kind": "official", "heldout_micro": None}
    facts.metrics["data"] = {**DATA, "kind": "real"}
    assert facts.origin() == "real i-CLEVR images; official evaluator"
    assert "comparable with published" in findings.published_text(facts)
    facts.metrics["evaluator"]["known"] = False
    assert "unknown hash" in facts.origin()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
def test_a_browser_shows_all_of_it_and_asks_for_nothing(chromium, exported, finished, width,
                                                        height, scheme):
    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((finished / "report.html").as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert complaints == []
    figures = page.locator("figure:has(img)")
    assert figures.count() == len(re.findall("<figure", exported[0])) > 5
    for figure in figures.all():
        image = figure.locator("img")
        assert image.evaluate("i => i.complete && i.naturalWidth > 0 && i.clientWidth > 0")
        assert image.get_attribute("alt") and figure.locator("figcaption").inner_text().strip()
    # Nothing sticks out to the side, where a phone would have to scroll.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", shade)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    assert page.locator("math").count() > 3
    page.close()
