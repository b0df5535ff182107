import pytest
import torch
from matplotlib.colors import to_hex

from cddpm_core.report.analysis_charts import (
    confusion_figure,
    nearest_figure,
    pairs_figure,
    quarter_figure,
    restored_figure,
    sampling_figure,
)
from cddpm_core.report.figures import WIDTH

QUARTERS = [{"timesteps": [250 * i, 250 * i + 249], "x_0": 0.1 * (i + 1),
              "x_0_without_label": 0.2 * (i + 1), "epsilon": 0.5 / (i + 1)} for i in range(4)]


def test_accuracies_of_restored_images_stand_at_their_timestep():
    axis, = restored_figure([{"timestep": 0, "micro": 0.99}, {"timestep": 999, "micro": 0.9}]).axes
    assert axis.lines[0].get_xydata().tolist() == [[0, 0.99], [999, 0.9]]
    assert axis.texts[0].get_text() == "original images"


def test_quarters_are_bars_of_their_errors():
    left, right = quarter_figure(QUARTERS).axes
    assert [bar.get_height() for bar in left.patches] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.2, 0.4, 0.6, 0.8])
    assert [bar.get_height() for bar in right.patches] == pytest.approx(
        [part["epsilon"] for part in QUARTERS])
    assert left.get_xticklabels()[1].get_text() == "250–499"
    alone = [{k: v for k, v in part.items() if k != "x_0_without_label"} for part in QUARTERS]
    assert len(quarter_figure(alone).axes[0].patches) == 4


def test_confusion_writes_each_count_once():
    colour = [[0] * 8 for _ in range(8)]
    colour[0][1], colour[2][2] = 3, 7
    figure = confusion_figure({"colour": colour, "shape": [[5, 0, 0], [0, 0, 2], [0, 0, 0]]})
    written = [[text.get_text() for text in axis.texts if text.get_text()]
               for axis in figure.axes]
    assert written == [["3", "7"], ["5", "2"]]


def test_nearest_shows_each_pair_and_its_distance():
    generated, found = torch.rand(2, 4, 3, 8, 8)
    figure = nearest_figure(generated, found, torch.tensor([1.0, 2.25, 3.0, 4.0]))
    assert len(figure.axes) == 8 and figure.get_size_inches()[0] == WIDTH
    assert [axis.get_xlabel() for axis in figure.axes[4:]] == ["1.0", "2.2", "3.0", "4.0"]


def test_pairs_show_both_images_of_each():
    generated, originals = torch.rand(2, 3, 3, 8, 8) * 2 - 1
    axes = pairs_figure(generated, originals).axes
    assert [axis.get_ylabel() for axis in axes] == ["generated", "", "", "original", "", ""]
    for axis, image in zip(axes, torch.cat([generated, originals]), strict=True):
        shown = torch.from_numpy(axis.images[0].get_array().data)
        assert torch.equal(shown, ((image + 1) / 2).movedim(0, -1))


def test_sampling_has_a_line_for_each_sampler_and_a_star_where_the_run_is():
    variants = [{"sampler": sampler, "num_inference_steps": steps, "guidance_scale": scale,
                 "seconds_per_image": steps / 100, "micro": scale / 10}
                for sampler in ("ddim", "unipc") for steps in (10, 5) for scale in (1.0, 4.0)]
    own = {"guidance_scale": 4.0, "seconds_per_image": 0.2, "micro": 0.6}
    figure = sampling_figure(variants, own)
    assert [axis.get_title() for axis in figure.axes] == ["guidance 1", "guidance 4"]
    first, second = (axis.lines for axis in figure.axes)
    assert len(first) == 2 and len(second) == 3
    assert list(first[0].get_xdata()) == [0.05, 0.1] and set(second[1].get_ydata()) == {0.4}
    assert second[2].get_marker() == "*" and list(second[2].get_ydata()) == [0.6]
    assert len({to_hex(line.get_color()) for line in first}) == 2
