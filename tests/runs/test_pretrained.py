import pytest
import torch
from conftest import same
from safetensors.torch import load_file

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import to_multi_hot
from cddpm_core.runs import pretrained
from cddpm_core.runs.pretrained import open_trained, pack, pretrained_run
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.sampling.pipeline import load_pipeline, make_pipeline, sampling_of, save_pipeline
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options

there = pytest.mark.skipif(not pretrained_run().folder.exists(),
                           reason="no weights here, a submission leaves them out")
WEIGHTS = "model/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def trained(tiny, outputs, dataset):
    """A run with a model, said to be finished."""
    run, params = Run("tiny"), tiny.replace(run="tiny")
    run.write_params(params)
    save_pipeline(make_pipeline(params, dataset), run / "model")
    run.update_metrics({"train": {"finished": True}, "fidelity": {"images": 36}})
    return run


def test_a_packed_run_has_rounded_weights_and_their_scores(trained, tmp_path):
    packed = pack(trained, tmp_path / "package")
    half, full = load_file(packed / WEIGHTS), load_file(trained / WEIGHTS)
    assert half.keys() == full.keys()
    assert same(half.pop("refinement.log_snr"), full.pop("refinement.log_snr"))  # no weight
    assert all(half[name].dtype == torch.bfloat16 and same(half[name], full[name].bfloat16())
               for name in full)
    first, second = (load_pipeline(run / "model") for run in (trained, packed))
    for part in ("codec", "layout_prior"):
        assert same(*(dict(getattr(p, part).state_dict()) for p in (first, second)))
    assert {weight.dtype for weight in second.unet.parameters()} == {torch.float32}
    assert packed.params() == trained.params().replace(run="pretrained")
    metrics = packed.read("metrics.json")
    assert metrics["evaluator"]["released"] and metrics["train"]["finished"]
    for name in ("test", "new_test"):
        assert all(0 <= part["micro"] <= 1 for part in (metrics[name], metrics[name]["one_layout"]))
    assert metrics["fidelity"] == {"images": 36}
    for path in (file for file in packed.folder.rglob("*") if file.is_file()):
        assert str(tmp_path.parent).encode() not in path.read_bytes(), path


def test_an_interrupted_pack_leaves_no_accuracies_of_other_weights(trained, tmp_path, monkeypatch):
    packed = pack(trained, tmp_path / "package")

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("cddpm_core.sampling.pipeline.save_pipeline", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(trained, tmp_path / "package")
    assert packed.read("metrics.json") == {}


@pytest.mark.parametrize(("changes", "finished", "words"), [
    ({}, False, "its training is not finished"),
    ({"evaluator_guidance": 1.0}, True, "without evaluator_guidance"),
    ({"data": "somewhere"}, True, "expected a run on the rendered scenes"),
    ({"renderer": "cycles", "clevr_assets": "x"}, True, "expected a run on the rendered scenes"),
])
def test_what_does_not_belong_into_the_package_is_refused(trained, tmp_path, changes, finished,
                                                          words):
    trained.write_params(trained.params().replace(**changes))
    trained.update_metrics({"train": {"finished": finished}})
    with pytest.raises(UserError, match=words):
        pack(trained, tmp_path / "package")
    assert not (tmp_path / "package").exists()


@there
def test_the_package_is_opened_only_if_no_run_is_named_and_none_is_trained(trained, outputs,
                                                                           capsys):
    session = open_trained({"run": "", "device": "cpu"})
    assert session.run.folder == pretrained_run().folder and session.params.device == "cpu"
    assert session.run.cache == outputs / "cache" and session.evaluator.known
    assert "whose weights come with the package" in capsys.readouterr().out
    assert open_trained({"run": "pretrained"}).run.folder == session.run.folder
    assert open_trained({"run": "tiny"}).run.folder == trained.folder
    assert open_trained({"run": "quikc"}).run.folder == outputs / "quikc"
    trained.folder.rename(outputs / "quick")
    assert open_trained({"run": ""}).run.folder == outputs / "quick"


def test_without_it_the_usual_run_is_opened(outputs, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "PACKAGE", tmp_path)
    assert open_trained({"run": ""}).run.folder == outputs / "quick"


@there
def test_the_weights_of_the_package_are_small_and_finished():
    run = pretrained_run()
    assert sum(file.stat().st_size for file in run.folder.rglob("*")) < 10e6
    metrics = run.read("metrics.json")
    assert metrics["train"]["finished"] and metrics["made_with"]["commit"]
    assert load_pipeline(run / "model").config.sampling == sampling_of(run.params())
    assert not any(run.params().to_dict()[key] for key in ("data", "evaluator",
                                                           "evaluator_guidance"))


@there
def test_the_weights_of_the_package_draw_the_colours_asked_for():
    run = pretrained_run()
    params = run.params().replace(device="cpu", num_inference_steps=10)
    pipeline = load_pipeline(run / "model")
    # Each colour by the channels that are high in it, and those that are low.
    colours = {"red": ([0], [1, 2]), "green": ([1], [0, 2]), "blue": ([2], [0, 1]),
               "cyan": ([1, 2], [0]), "yellow": ([0, 1], [2]), "purple": ([0, 2], [1])}
    names = [f"{colour} cube" for colour in colours]
    labels = torch.stack([to_multi_hot([name]) for name in names])
    images = sample(pipeline, labels, image_seeds(3, len(names)),
                    **sampling_options(pipeline, params))
    pixels = torch.stack([((images[:, high].amin(1) - images[:, low].amax(1)) > 0.2).sum((1, 2))
                          for high, low in colours.values()], 1)
    assert pixels.argmax(1).tolist() == list(range(len(names))), pixels
