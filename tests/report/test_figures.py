import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.evaluation.images import grid_image
from cddpm_core.evaluation.score import score
from cddpm_core.report.bench_charts import bench_figure, race_figure, scale_figure
from cddpm_core.report.charts import (
    accuracy_bars,
    comparison_figure,
    image_statistics,
    label_statistics,
    schedule_figure,
)
from cddpm_core.report.figures import (
    denoising_figure,
    grid_figure,
    marked_grid,
    progress_strips,
    run_rows,
    step_figure,
)
from cddpm_core.report.training_charts import experiment_curves, training_curves
from cddpm_core.scenes.fitting import Comparison
from cddpm_core.scenes.scene import Scene
from cddpm_core.scheduler.process import make_scheduler
from cddpm_core.scheduler.timesteps import sample_timesteps

HISTORY = [
    {"step": 25, "epoch": 0.5, "loss": 0.9, "images_per_second": 40.0},
    {"step": 50, "epoch": 1.0, "loss": 0.5, "images_per_second": 42.0},
    {"step": 50, "epoch": 1.0, "seconds": 30.0,
     "test": {"micro": 0.3, "macro": 0.25, "sharpness": 0.9}},
    {"step": 75, "epoch": 1.5, "loss": 0.4, "images_per_second": 41.0},
]


@pytest.fixture
def images():
    return torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def scored():
    conditions = ConditionDataset("test")
    probabilities = torch.rand(32, 24, generator=torch.Generator().manual_seed(1))
    return score(probabilities, conditions.conditions)


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_marks_each_label_by_sign_and_colour(images, scored):
    figure = marked_grid(images, scored["conditions"])
    marks = texts(figure)
    assert len(marks) == 72
    assert sum(mark.startswith("✓") for mark in marks) == sum(
        sum(condition["hits"]) for condition in scored["conditions"])
    rows = [int(axis.get_title().removeprefix("row ")) for axis in figure.axes]
    shown = [scored["conditions"][row] for row in rows]
    assert [mark[2:] for mark in marks] == [n for c in shown for n in c["labels"]]
    assert sorted(rows) == list(range(32))
    accuracies = [condition["accuracy"] for condition in shown]
    assert accuracies == sorted(accuracies)  # the hardest first
    for axis, row in zip(figure.axes, rows, strict=True):
        picture = axis.images[0].get_array()
        assert np.allclose(picture, (images[row].movedim(0, -1) + 1) / 2, atol=1e-6)
    colours = {(text.get_text()[0], text.get_color()) for a in figure.axes for text in a.texts}
    assert len(colours) == 2


def test_a_grid_with_too_few_images_hides_the_empty_axes(images):
    figure = grid_figure(images[:5], [f"image {i}" for i in range(5)], per_row=4)
    assert [axis.get_visible() for axis in figure.axes] == [True] * 5 + [False] * 3


def test_a_denoising_figure_shows_every_moment_of_every_row(images):
    timesteps = [99, 80, 60, 50, 40, 30, 20, 10, 5, 2, 1, -1]
    rows = {"x_t": images[:12] / 2 + 0.5, "x_0": images[12:24] / 2 + 0.5}
    figure = denoising_figure(rows, timesteps)
    assert sum(axis.get_visible() for axis in figure.axes) == 24
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [*(f"t = {t}" for t in timesteps[:-1]), "image"]
    # All in one row each, which is wide.
    assert len({axis.get_subplotspec().rowspan.start for axis in figure.axes}) == 2
    assert figure.get_size_inches()[0] > 2 * figure.get_size_inches()[1]


def test_label_statistics_count_what_is_there():
    figure = label_statistics([("red cube",), ("red cube", "blue sphere"), ("gray cylinder",)])
    counts = [text for text in texts(figure) if text]
    assert counts.count("2") == 2  # two images of one object, and two of red cubes
    assert len(figure.axes) == 2


def test_accuracy_bars_are_as_high_as_the_fractions(scored):
    figure = accuracy_bars({"test": scored, "new_test": scored})
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    fractions = [scored["per_shape"][name]["hits"] / scored["per_shape"][name]["total"]
                 for name in ("cube", "sphere", "cylinder")]
    assert heights == pytest.approx(fractions * 2)


def test_curves_hold_the_history():
    figure = training_curves(HISTORY)
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.9, 0.5, 0.4]
    assert [line.get_xydata().tolist() for line in figure.axes[1].lines] == [
        [[0.5, 0.3]], [[0.5, 0.25]], [[0.5, 0.9]]]
    both = experiment_curves({"T = 1000": HISTORY, "T = 2000": HISTORY})
    assert [line.get_label() for line in both.axes[1].lines] == ["T = 1000", "T = 2000"]


def test_a_single_accuracy_of_each_variant_stands_on_the_epochs_of_training():
    variants = {name: [{"epoch": epoch, "test": {"micro": 0.7}}] for name, epoch in
                (("T = 1000", 1.0), ("T = 2000", 1.0004))}
    left, right = experiment_curves(variants).axes[1].get_xlim()
    assert left <= 0 and 1 < right < 1.2


@pytest.mark.parametrize("history", [[], HISTORY[:1], HISTORY[2:3]])
def test_curves_of_a_training_that_has_hardly_begun(history):
    assert isinstance(training_curves(history), Figure)


def test_the_schedule_figure_shows_alpha_bar(tiny):
    scheduler = make_scheduler(tiny)
    timesteps = sample_timesteps(100, tiny.num_train_timesteps)
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
    ratio = {"median": 200.0, "min": 150.0, "max": 300.0}
    figure = bench_figure({"a_vs_b": {"ratio": ratio}, "repeats": 3,
                           "c_vs_d": {"ratio": {**ratio, "median": 2.0}}})
    axis = figure.axes[0]
    assert [bar.get_width() for bar in axis.patches] == [200.0, 2.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a vs b", "c vs d"]
    assert texts(figure) == ["200 ×", "2 ×"] and axis.get_xscale() == "log"
    plt.close(figure)


def test_the_race_figure_has_a_line_for_each_recipe():
    looks = [{"minutes": 1.0, "micro": 0.2, "sharpness": 0.5},
             {"minutes": 2.0, "micro": 0.8, "sharpness": 0.9}]
    figure = race_figure([{"variants": {"ours": {"looks": looks}, "seed_recipe": {"looks": looks}}},
                          {"variants": {"ours": {"looks": looks[:1]}}}])
    accuracy, sharpness, below, _ = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["ours", "seed recipe"]
    assert accuracy.lines[1].get_xydata().tolist() == [[1.0, 0.2], [2.0, 0.8]]
    assert sharpness.lines[0].get_xydata().tolist() == [[1.0, 0.5], [2.0, 0.9]]
    assert len(below.lines) == 1 and below.get_xlabel() == "minutes of training"
    plt.close(figure)


def test_the_scale_figure_has_a_panel_for_each_size_that_varies():
    def variant(key, value):
        return {"varied": key, "value": value, "seconds_per_image": value / 1e4, "peak_mib": 2048}

    figure = scale_figure({"training": [variant("image_size", 128), variant("image_size", 64),
                                        variant("batch_size", 32)],
                           "sampling": [variant("num_inference_steps", 20)]})
    shown = [axis for axis in figure.axes if axis.get_visible() and axis.get_xlabel()]
    assert [axis.get_xlabel() for axis in shown] == ["image side", "batch size", "sampler steps"]
    assert shown[0].lines[0].get_xydata().tolist() == [[64, 6.4], [128, 12.8]]
    memory = [axis for axis in figure.axes if axis not in shown and axis.lines]
    assert [line.get_ydata().tolist() for line in memory[0].lines] == [[2, 2]]
    plt.close(figure)
    figure = scale_figure({"training": [variant("batch_size", 32)], "sampling": []})
    assert [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()] == ["batch size"]
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


def test_a_training_step_has_a_column_for_each_timestep_with_error_and_weight():
    x_0, epsilon, x_t, prediction = torch.rand(4, 3, 3, 8, 8)
    figure = step_figure(x_0, epsilon, x_t, prediction, x_0, [0, 50, 99], [4.0, 1.0, 0.25])
    axes = np.array(figure.axes).reshape(5, 3)
    assert [axis.get_title() for axis in axes[0]] == ["t = 0", "t = 50", "t = 99"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == [
        "$x_0$", r"$\epsilon$", "$x_t$", "prediction", "squared error"]
    error = (prediction - x_0)[1].square()
    assert axes[4, 1].get_xlabel() == f"mean {error.mean():.2g}\nweight 1"
    assert np.allclose(axes[4, 1].images[0].get_array(), error.mean(0))


def test_the_comparison_shows_real_rendered_and_enlarged_difference():
    real = np.full((240, 320, 3), 100, np.uint8)
    scene = Scene((), np.zeros((3, 3)))
    figure = comparison_figure([Comparison("a.png", real, real + 3, scene, 3.0, 2.5)])
    assert [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes] == [100, 103, 24]
    assert figure.axes[2].get_xlabel() == "mean 3.0 of 255\nin boxes 2.5"
