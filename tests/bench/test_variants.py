import shutil

import pytest
import torch

from cddpm_core.bench import variants
from cddpm_core.config.errors import UserError
from cddpm_core.runs.run import Run
from cddpm_core.sampling.pipeline import make_pipeline, save_pipeline


@pytest.fixture
def trained(tiny, dataset, tmp_path):
    """A run with a network that sees some of the rows, and with layouts; its name and folder."""
    run = Run("tiny", outputs=tmp_path)
    params = tiny.replace(run="tiny", data=str(dataset.files[0].parents[1]), layout_choices=3)
    run.write_params(params)
    save_pipeline(make_pipeline(params, dataset), run / "model")
    return run.name, str(tmp_path)


def test_the_plain_loop_trains_the_same_network_on_images_as_they_are(trained, dataset):
    folder = str(dataset.files[0].parents[1])
    network, _ = variants._plain(*trained, folder)
    ours = variants._trainer(*trained, folder).pipeline.unet
    seen = []
    network.register_forward_pre_hook(lambda _, given: seen.append([x.shape for x in given]))
    assert dict(network.config) == dict(ours.config)
    before = [weight.clone() for weight in network.parameters()]
    assert variants.train_plain(*trained, folder, 1)[0] > 0
    assert seen == [[(8, 3, 64, 64), (8,), (8, 24)]]
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_images_may_be_missing_where_the_run_leaves_them_out(trained, dataset, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(dataset.files[0].parents[1], folder)
    (folder / "iclevr" / dataset.files[0].name).unlink()
    with pytest.raises(UserError, match="missing"):
        variants._trainer(*trained, str(folder))
    run = Run(trained[0], outputs=tmp_path)
    run.write_params(run.params().replace(missing="skip"))
    for made in (variants._trainer, variants._plain):
        made.cache_clear()
        made(*trained, str(folder))


def test_both_ways_of_sampling_use_the_same_layouts_and_noise(trained, monkeypatch):
    calls, real = [], variants.sample

    def sample(pipeline, labels, seeds, **options):
        calls.append((labels, list(seeds), options["layout_choices"]))
        return real(pipeline, labels, seeds, **options)

    monkeypatch.setattr(variants, "sample", sample)
    seconds, few = variants.sample_one_by_one(*trained, 1)
    _, many = variants.sample_in_batches(*trained)
    (few_labels, few_seeds, few_choices), (labels, seeds, choices) = calls
    assert few.shape == (1, 3, 64, 64) and many.shape == (64, 3, 64, 64) and seconds > 0
    assert torch.equal(few_labels, labels[:1]) and few_seeds == seeds[:1]
    assert few_choices == choices == 3
