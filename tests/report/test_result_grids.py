import torch
from PIL import Image

from cddpm_core.data.images import to_float
from cddpm_core.data.labels import condition_file, read_conditions
from cddpm_core.evaluation.images import grid_image
from cddpm_core.report.result_grids import grids_text
from cddpm_core.scenes.conditions import render_conditions


def test_without_pictures_nothing_is_shown_or_written(tmp_path):
    assert grids_text(tmp_path) == "" and list(tmp_path.iterdir()) == []


def test_grids_stand_beside_renders_of_the_same_labels(tmp_path):
    grid = grid_image(torch.zeros(32, 3, 64, 64), scale=3)
    (tmp_path / "quick/figures").mkdir(parents=True)
    grid.save(tmp_path / "quick/figures/test_grid.png")
    Image.new("RGB", grid.size, "red").save(tmp_path / "quick_test.png")  # of an earlier run
    Image.new("RGB", grid.size).save(tmp_path / "best_cpu_test.png")  # whose run is not here
    text = grids_text(tmp_path)
    assert "| rendered | `quick` | `best_cpu` |" in text
    for name in ("rendered", "quick", "best_cpu"):
        assert f"]({name}_test.png) |" in text
    with Image.open(tmp_path / "quick_test.png") as picture:
        assert picture.tobytes() == grid.tobytes()
    with Image.open(tmp_path / "rendered_test.png") as picture:
        assert picture.size == grid.size
        expected = render_conditions(read_conditions(condition_file("test"))[:2])
        cell = grid_image(to_float(expected), scale=3).crop((6, 6, 198, 198))
        assert picture.crop((6, 6, 198, 198)).tobytes() == cell.tobytes()
