"""Notebooks in a real JupyterLab, driven in a real browser."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT
from playwright.sync_api import TimeoutError as NotShown

IDLE = "Python 3 (ipykernel) | Idle"  # in the status bar; the notebook itself says so too early


@pytest.fixture
def lab(smoke_copy, tmp_path):
    """The address of a JupyterLab with a copy of the notebook, set to a finished run.

    Its root is that of a project: ``notebooks`` and ``outputs`` are in it.
    """
    folder = tmp_path / "notebooks"
    folder.mkdir()
    text = (ROOT / "notebooks/explore.ipynb").read_text()
    named = text.replace(r'run: str = \"\"', rf'run: str = \"{smoke_copy.name}\"')
    assert named != text
    (folder / "explore.ipynb").write_text(named)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root",
             f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=",
             "--ServerApp.disable_check_xsrf=True",
             "--LabApp.news_url=None",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            cwd=tmp_path, stdout=log, stderr=log,
            # What a browser had open before is not opened again.
            env={**os.environ, "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces")})
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
        server.wait(120)


def test_objects_are_chosen_and_the_image_changes(chromium, lab):
    # A notebook that is opened finds its kernel running. Else JupyterLab asks which one to start,
    # as on a busy machine it may even so, once for each cell, and forgets cells that were to run.
    # All are then run again.
    notebook = {"path": "notebooks/explore.ipynb", "name": "explore.ipynb", "type": "notebook",
                "kernel": {"name": "python3"}}
    urllib.request.urlopen(f"{lab}/api/sessions", json.dumps(notebook).encode(), timeout=120)
    page = chromium.new_page(viewport={"width": 1400, "height": 3000})
    page.goto(f"{lab}/lab/tree/notebooks/explore.ipynb")
    image, score = page.locator("img.sampled-image"), page.locator(".sampled-score")
    question = page.locator(".jp-Dialog button.jp-mod-accept")
    try:
        for _ in range(12):
            page.get_by_text(IDLE).or_(question).first.wait_for(timeout=120_000)
            if question.is_visible():
                question.click()
                page.wait_for_timeout(1_000)  # until the next question
                continue
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
            with contextlib.suppress(NotShown):
                image.or_(question).first.wait_for(timeout=60_000)
            if image.is_visible():
                break
        image.wait_for(timeout=60_000)
    except NotShown as error:
        shown = page.locator("body").inner_text()
        raise AssertionError(f"no image was sampled, the page shows: {shown}") from error
    assert "red sphere" in score.inner_text() and "stand-in evaluator" in score.inner_text()
    for name, width in (("image", 256), ("trajectory", 300)):
        page.wait_for_function(
            f"document.querySelector('img.sampled-{name}').naturalWidth >= {width}")
    for control, choice in (("object 1", "cyan cylinder"), ("object 2", "gray cube")):
        before = image.get_attribute("src")
        page.get_by_label(control).select_option(choice)
        page.wait_for_function(
            "before => document.querySelector('img.sampled-image').src != before",
            arg=before, timeout=60_000)
        page.locator(".sampled-score", has_text=choice).wait_for()
    assert "red sphere" not in page.locator(".sampled-score").inner_text()
    assert page.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0
    page.close()


def test_the_report_notebook_shows_its_pictures_and_exports_itself(chromium, lab, smoke_copy):
    page = chromium.new_page(viewport={"width": 1400, "height": 3000})
    page.goto(f"{lab}/lab/tree/outputs/{smoke_copy.name}/report.ipynb")
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    page.locator(".jp-Dialog button.jp-mod-accept").or_(
        page.locator(".jp-RenderedMarkdown img").first).first.wait_for(timeout=60_000)
    page.wait_for_function("""() => {
        const shown = [...document.querySelectorAll('.jp-RenderedMarkdown img')];
        return shown.length > 3 && shown.every(i => i.complete && i.naturalWidth > 0)}""",
        timeout=60_000)
    page.close()
    with urllib.request.urlopen(f"{lab}/api/nbconvert") as answer:  # what the menu offers
        offered = json.load(answer)
    assert {name for name in offered if name.lower().startswith("lab")} == {
        "lab_report_html", "lab_report_pdf"}
    address = f"{lab}/nbconvert/lab_report_pdf/outputs/{smoke_copy.name}/report.ipynb"
    # The server converts only for its own pages.
    asked = urllib.request.Request(address, headers={"Referer": f"{lab}/lab"})
    with urllib.request.urlopen(asked, timeout=300) as answer:
        assert answer.headers["Content-Type"].startswith("application/pdf")
        assert answer.read() == (smoke_copy / "report.pdf").read_bytes()
