import copy

from cddpm_core.evaluation.agreement import gaps
from cddpm_core.report.verdicts import agreement_figure, agreement_lines, agreement_text

EVALUATOR = {"kind": "stand-in", "released": True, "known": True, "sha256": "0" * 64,
             "heldout_micro": 0.99}
GRIDS = [{"file": f"{i}.png", "official": official, "score": score, "gap": score - official,
          "metric": "micro", "quality": "lossless", "kind": kind}
         for i, (official, score, kind) in enumerate(
             [(0.8, 0.75, "diffusion"), (0.5, 0.5, "gan"), (0.9, 0.6, "classifier guidance")])]
FOUND = {"evaluator": EVALUATOR, "grids": GRIDS, "groups": [gaps("all", GRIDS), gaps("few", [])],
         "images": {"compared": 64, "same": 63, "differ": [
             {"file": "0.png", "row": 3, "labels": ["red cube"], "official": 1, "hits": 0,
              "predicted": ["red sphere"], "same": False}]}}


def test_the_terminal_has_each_grid_and_each_group():
    lines = agreement_lines(FOUND)
    assert lines[0] == ("0.png: official micro 0.800, found 0.750 (-0.050); diffusion, lossless")
    assert [line.split()[0] for line in lines[3:6]] == ["grids", "all", "few"]
    assert len({len(line) for line in lines[3:6]}) == 1
    assert lines[6].startswith("63 of 64 images (0.984)")
    assert lines[7] == "scored by: released stand-in evaluator, 0.990 micro on held-out scenes"


def test_markdown_has_groups_and_the_images_that_differ():
    text = agreement_text(FOUND)
    assert "| all | 3 | 0.117 | −0.117 | 0.300 | 0.500 |" in text
    assert "| few | 0 | – | – | – | – |" in text
    assert "| 0\\.png | 3 | red cube | 1 | 0 | red sphere |" in text
    without = copy.deepcopy(FOUND)
    without["images"] = {"compared": 0, "same": 0, "differ": []}
    assert agreement_text(without).count("Table: ") == 1
    assert "parameter `agreement`" in agreement_text(None)


def test_the_figure_has_a_mark_for_each_grid():
    figure = agreement_figure(FOUND)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines[:3]] == ["diffusion", "gan", "classifier guidance"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines[:3]] == [
        (0.8, 0.75), (0.5, 0.5), (0.9, 0.6)]
