import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cddpm_core.bench_charts import bench_figure, scale_figure
from cddpm_core.charts import (
    accuracy_bars,
    experiment_curves,
    image_statistics,
    label_statistics,
    schedule_figure,
    training_curves,
)
from cddpm_core.data import ConditionDataset
from cddpm_core.evaluator import score
from cddpm_core.figures import (
    denoising_figure,
    grid_figure,
    grid_image,
    marked_grid,
    progress_strips,
    rescale,
    run_rows,
)
from cddpm_core.schedule import draw_timesteps, make_scheduler

HISTORY = [
    {"step": 25, "epoch": 0.5, "loss": 0.9, "images_per_second": 40.0},
    {"step": 50, "epoch": 1.0, "loss": 0.5, "images_per_second": 42.0},
    {"step": 50, "epoch": 1.0, "test": {"micro": 0.3, "macro": 0.25}},
    {"step": 75, "epoch": 1.5, "loss": 0.4, "images_per_second": 41.0},
]


@pytest.fixture
def images():
    return torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def scored():
    conditions = ConditionDataset("test")
    probabilities = torch.rand(32, 24, generator=torch.Generator().manual_seed(1))
    return score(probabilities, conditions.label_sets)


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_a_grid_image_shows_every_pixel_unchanged(images):
    picture = np.asarray(grid_image(images, per_row=8, scale=3))
    assert picture.shape == ((4 * 66 + 2) * 3, (8 * 66 + 2) * 3, 3)
    # Image 9 is the second of the second row; each pixel is a block of 3 x 3.
    top, left = (66 + 2) * 3, (66 + 2) * 3
    block = picture[top:top + 64 * 3, left:left + 64 * 3]
    expected = ((images[9] + 1) / 2 * 255).round().byte().movedim(0, -1).numpy()
    assert np.array_equal(block[1::3, 1::3], expected)
    assert np.array_equal(block[::3, ::3], block[2::3, 2::3])


def test_marks_each_label_by_sign_and_colour(images, scored):
    figure = marked_grid(images, scored["conditions"])
    marks = texts(figure)
    assert len(marks) == 72
    assert sum(mark.startswith("✓") for mark in marks) == sum(
        sum(condition["hits"]) for condition in scored["conditions"])
    places = [int(axis.get_title().removeprefix("row ")) for axis in figure.axes]
    shown = [scored["conditions"][place] for place in places]
    assert [mark[2:] for mark in marks] == [n for c in shown for n in c["labels"]]
    assert sorted(places) == list(range(32))
    accuracies = [condition["accuracy"] for condition in shown]
    assert accuracies == sorted(accuracies)  # the hardest first
    for axis, place in zip(figure.axes, places, strict=True):
        picture = axis.images[0].get_array()
        assert np.allclose(picture, (images[place].movedim(0, -1) + 1) / 2, atol=1e-6)
    colours = {(text.get_text()[0], text.get_color()) for a in figure.axes for text in a.texts}
    assert len(colours) == 2


def test_a_grid_smaller_than_its_rows_leaves_places_empty(images):
    figure = grid_figure(images[:5], [f"image {i}" for i in range(5)], per_row=4)
    assert [axis.get_visible() for axis in figure.axes] == [True] * 5 + [False] * 3


def test_rescale_stretches_each_image_by_its_own_values(images):
    stretched = rescale(torch.stack([images[0] * 0.1, images[1] * 50, torch.ones(3, 64, 64)]))
    assert torch.allclose(stretched[:2].flatten(1).amin(1), torch.zeros(2))
    assert torch.allclose(stretched[:2].flatten(1).amax(1), torch.ones(2))
    assert torch.isfinite(stretched).all()


def test_a_denoising_figure_shows_every_moment_of_every_row(images):
    timesteps = [99, 80, 60, 50, 40, 30, 20, 10, 5, 2, 1, -1]
    rows = {"x_t": images[:12] / 2 + 0.5, "x_0": images[12:24] / 2 + 0.5}
    figure = denoising_figure(rows, timesteps)
    assert sum(axis.get_visible() for axis in figure.axes) == 24
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [*(f"t = {t}" for t in timesteps[:-1]), "image"]


def test_label_statistics_count_what_is_there():
    figure = label_statistics([("red cube",), ("red cube", "blue sphere"), ("gray cylinder",)])
    counts = [text for text in texts(figure) if text]
    assert counts.count("2") == 2  # two images of one object, and two of red cubes
    assert len(figure.axes) == 2


def test_accuracy_bars_are_as_high_as_the_shares(scored):
    figure = accuracy_bars({"test": scored, "new_test": scored})
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    shares = [scored["per_shape"][name]["hits"] / scored["per_shape"][name]["total"]
              for name in ("cube", "sphere", "cylinder")]
    assert heights == pytest.approx(shares * 2)


def test_curves_hold_the_history():
    figure = training_curves(HISTORY)
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.9, 0.5, 0.4]
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.3]
    both = experiment_curves({"T = 1000": HISTORY, "T = 2000": HISTORY})
    assert [line.get_label() for line in both.axes[1].lines] == ["T = 1000", "T = 2000"]


def test_one_accuracy_of_each_arm_stands_on_the_epochs_of_training():
    arms = {name: [{"epoch": epoch, "test": {"micro": 0.7}}] for name, epoch in
            (("T = 1000", 1.0), ("T = 2000", 1.0004))}
    left, right = experiment_curves(arms).axes[1].get_xlim()
    assert left <= 0 and 1 < right < 1.2


@pytest.mark.parametrize("history", [[], HISTORY[:1], HISTORY[2:3]])
def test_curves_of_a_training_that_has_hardly_begun(history):
    assert isinstance(training_curves(history), Figure)


def test_the_schedule_figure_shows_alpha_bar(tiny):
    scheduler = make_scheduler(tiny)
    timesteps = draw_timesteps(100, tiny.num_train_timesteps)
    figure = schedule_figure({"cosine": scheduler}, timesteps)
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), scheduler.alphas_cumprod)
    assert len(figure.axes) == 3


def test_figures_leave_nothing_open_and_no_style_behind(images):
    before = dict(plt.rcParams)
    progress_strips({"epoch 1": grid_image(images), "end": grid_image(images)})
    image_statistics(images)
    assert not plt.get_fignums()
    assert dict(plt.rcParams) == before


def test_the_bench_figure_has_a_bar_with_its_range_for_each_ratio():
    ratio = {"median": 200.0, "least": 150.0, "greatest": 300.0}
    figure = bench_figure({"a_vs_b": {"ratio": ratio}, "repeats": 3,
                           "c_vs_d": {"ratio": {**ratio, "median": 2.0}}})
    axis = figure.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [200.0, 2.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a vs b", "c vs d"]
    assert texts(figure) == ["200 ×", "2 ×"] and axis.get_xscale() == "log"
    plt.close(figure)


def test_the_scale_figure_has_a_panel_for_each_thing_that_grows():
    def arm(key, value):
        return {"grows": key, "value": value, "seconds_per_image": value / 1e4, "peak_mib": 2048}

    figure = scale_figure({"training": [arm("image_size", 128), arm("image_size", 64),
                                        arm("batch_size", 32)],
                           "sampling": [arm("num_inference_steps", 20)]})
    shown = [axis for axis in figure.axes if axis.get_visible() and axis.get_xlabel()]
    assert [axis.get_xlabel() for axis in shown] == ["side of the image", "batch", "sampler steps"]
    assert shown[0].lines[0].get_xydata().tolist() == [[64, 6.4], [128, 12.8]]
    memory = [axis for axis in figure.axes if axis not in shown and axis.lines]
    assert [line.get_ydata().tolist() for line in memory[0].lines] == [[2, 2]]
    plt.close(figure)
    figure = scale_figure({"training": [arm("batch_size", 32)], "sampling": []})
    assert [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()] == ["batch"]
    plt.close(figure)


def test_rows_of_runs_show_their_images_in_order(tmp_path):
    for shade, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.new("RGB", (8, 8), (10 * index, 100 * shade, 0)).save(
                tmp_path / f"{name}/{index}.png")
    figure = run_rows({name: tmp_path / name for name in ("a", "b")}, count=3)
    assert [axis.get_ylabel() for axis in figure.axes] == ["a", "", "", "b", "", ""]
    assert figure.axes[5].images[0].get_array()[0, 0].tolist() == [20, 100, 0]
