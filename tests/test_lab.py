"""The explore notebook in a real JupyterLab, driven in a real browser."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT

from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.source import data_source
from cddpm_core.evaluation import evaluate as evaluation
from cddpm_core.evaluation import stand_in as standin
from cddpm_core.runs.run import Run
from cddpm_core.training.loop import train


@pytest.fixture
def lab(tiny, tmp_path, monkeypatch):
    """The address of a JupyterLab with a copy of the notebook, and a tiny run to explore."""
    outputs, folder = tmp_path / "outputs", tmp_path / "notebooks"
    monkeypatch.setattr(standin, "HELDOUT_IMAGES", 20)
    monkeypatch.setenv("CDDPM_OUTPUTS", str(outputs))
    params = tiny.replace(run="quick", num_scenes=6, heldout_scenes=1, evaluator_images=64,
                          evaluator_epochs=1, epochs=1)
    run = Run("quick")
    run.write_params(params)
    evaluation.get_evaluator(params, run)
    result = train(params, IclevrDataset(data_source(params, run).folder), run)
    run.update_metrics({"train": result})
    folder.mkdir()
    shutil.copy(ROOT / "notebooks/explore.ipynb", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root",
             f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=",
             "--LabApp.news_url=None",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.25)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def run_until_drawn(page):
    """Run all cells; JupyterLab may ask which kernel to start, and then forget some of them."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        asked = page.locator(".jp-Dialog button.jp-mod-accept")
        if page.locator("img.drawn-image").count():
            return
        if asked.count():
            asked.click()
        elif not page.locator(".jp-InputPrompt", has_text="[*]").count():
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
        page.wait_for_timeout(5000)
    raise AssertionError("no image was drawn in five minutes")


def test_labels_are_picked_and_the_image_changes(lab, chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 3000})
    page.goto(f"{lab}/lab/tree/explore.ipynb")
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    run_until_drawn(page)
    image, said = page.locator("img.drawn-image"), page.locator(".drawn-score")
    image.wait_for(timeout=60_000)
    assert "red sphere" in said.inner_text() and "stand-in evaluator" in said.inner_text()
    for name, width in (("image", 256), ("film", 300)):
        page.wait_for_function(
            f"document.querySelector('img.drawn-{name}').naturalWidth >= {width}")
    for control, choice in (("object 1", "cyan cylinder"), ("object 2", "gray cube")):
        before = image.get_attribute("src")
        page.get_by_label(control).select_option(choice)
        page.wait_for_function("before => document.querySelector('img.drawn-image').src != before",
                               arg=before, timeout=60_000)
        page.locator(".drawn-score", has_text=choice).wait_for()
    assert "red sphere" not in page.locator(".drawn-score").inner_text()
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0
    page.close()
