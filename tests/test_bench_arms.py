import pytest
import torch

from cddpm_core import bench_arms
from cddpm_core.runs import Run
from cddpm_core.training import train


@pytest.fixture
def trained(tiny, dataset, tmp_path):
    """A tiny run that draws some of the rows, at layouts it chooses; its name and place."""
    run = Run("tiny", outputs=tmp_path)
    params = tiny.replace(run="tiny", data=str(dataset.files[0].parents[1]), epochs=1,
                          layout_choices=3)
    run.write_params(params)
    train(params, dataset, run)
    return run.name, str(tmp_path)


def test_the_plain_loop_trains_the_same_network_on_whole_images(trained, dataset):
    folder = str(dataset.files[0].parents[1])
    model, batches, *_ = bench_arms._plain(*trained, folder)
    ours = bench_arms._trainer(*trained, folder).model
    assert model.x_shape == (3, 64, 64) and ours.x_shape[1] < 64
    images, labels = next(batches)
    assert images.shape == (8, 3, 64, 64) and labels.shape == (8, 24)
    plain, own = (sum(w.numel() for name, w in m.named_parameters() if "positions" not in name)
                  for m in (model, ours))
    assert plain == own  # but for the places of the transformer, of which there are more
    before = [weight.clone() for weight in model.parameters()]
    assert bench_arms.train_plain(*trained, folder, 2)[0] > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_both_ways_of_drawing_take_the_same_layouts_and_noise(trained, monkeypatch):
    seen, real = [], bench_arms.sample

    def sample(model, scheduler, labels, seeds, **options):
        seen.append((labels, list(seeds), options["layout_choices"]))
        return real(model, scheduler, labels, seeds, **options)

    monkeypatch.setattr(bench_arms, "sample", sample)
    seconds, few = bench_arms.draw_one_by_one(*trained, 2)
    _, many = bench_arms.draw(*trained)
    (few_labels, few_seeds, few_choices), (labels, seeds, choices) = seen
    assert few.shape == (2, 3, 64, 64) and many.shape == (64, 3, 64, 64) and seconds > 0
    assert torch.equal(few_labels, labels[:2]) and few_seeds == seeds[:2]
    assert few_choices == choices == 3
