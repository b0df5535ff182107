import json

import nbformat
import pytest
from nbclient import NotebookClient

from cddpm_core.config.progress import HEADLESS
from cddpm_core.report import live

LINES = [{"step": 25 * i, "epoch": i / 2, "loss": 1 / i, "images_per_second": 40.0}
         for i in (1, 2, 3)]
CODE = f"""
from cddpm_core.report import live
watch = live.live_curves(seconds=0)
lines = {json.dumps(LINES)}
live.read_history = lambda count: lines[:count]
if watch:
    for count in (1, 2, 3):
        watch(count)
print(watch is None)
"""


def run_by_kernel():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    pictures = []

    class Client(NotebookClient):
        async def async_start_new_kernel_client(self):
            client = await super().async_start_new_kernel_client()
            client.allow_stdin = True  # as where somebody sits at the notebook
            return client

        def process_message(self, message, cell, index):
            if message["msg_type"] in ("display_data", "update_display_data"):
                content = message["content"]
                pictures.append((message["msg_type"], content["transient"]["display_id"],
                                 content["data"]["image/png"]))
            return super().process_message(message, cell, index)

    Client(notebook, kernel_name="python3", timeout=120).execute()
    return pictures, notebook.cells[0].outputs


def test_by_hand_one_picture_grows_in_place(monkeypatch):
    monkeypatch.delenv(HEADLESS, raising=False)
    pictures, outputs = run_by_kernel()
    assert [kind for kind, _, _ in pictures] == ["display_data", *2 * ["update_display_data"]]
    assert len({identity for _, identity, _ in pictures}) == 1
    assert len({picture for _, _, picture in pictures}) == 3
    assert [output.output_type for output in outputs] == ["display_data", "stream"]


def test_headless_there_is_none(monkeypatch):
    monkeypatch.setenv(HEADLESS, "1")
    assert live.live_curves() is None


@pytest.mark.parametrize(("seconds", "updates"), [(0.0, 3), (60.0, 1)])
def test_it_is_updated_no_more_often_than_asked(monkeypatch, tmp_path, seconds, updates):
    seen = []

    class Handle:
        def update(self, image):
            seen.append(image)

    def display(image, display_id):
        seen.append(image)
        return Handle()

    monkeypatch.setattr(live, "display", display)
    monkeypatch.setattr(live, "by_hand", lambda: True)
    watch = live.live_curves(seconds)
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    for _ in range(3):
        watch(tmp_path)
    assert len(seen) == updates
