"""Models that were trained elsewhere, as runs."""

import json
import shutil

import pytest
import torch
from conftest import awake, same
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import nn

from cddpm_core.__main__ import main
from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import to_yaml
from cddpm_core.report.chapters import training
from cddpm_core.report.compare import Group
from cddpm_core.report.facts import read_facts
from cddpm_core.report.run_tables import runs_table
from cddpm_core.report.summary import run_lines
from cddpm_core.runs.importing import check_imported, import_model, imported, params_of
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.stages import run_stages
from cddpm_core.runs.train import train_in
from cddpm_core.sampling.pipeline import load_pipeline, make_pipeline, save_pipeline
from cddpm_core.training.trainer import Trainer


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture(scope="session")
def small(tiny):
    """Parameters of the original's kind of network, small."""
    return tiny.replace(
        run="imported", class_emb_size=128, backbone="unet", conditioning="class_embedding",
        layout=False, ordered_tokens=False, blocks=[0, 1], channels=[1, 2], patch_size=1,
        time_scale_shift="default", standardise=False, num_train_timesteps=50,
        num_inference_steps=2,
        prediction_type="epsilon", label_drop=0.0, guidance_scale=1.0, sampler="ddim",
        image_size=16)


@pytest.fixture(scope="module")
def theirs():
    """The network as the original's script makes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(sample_size=16, in_channels=3, out_channels=3, layers_per_block=1,
                           block_out_channels=(32, 64),
                           down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                           up_block_types=("AttnUpBlock2D", "UpBlock2D"))
        unet.class_embedding = nn.Linear(24, 128)
        return unet.eval()


class Conditioned(nn.Module):
    """Another common form: the linear layer stands beside the network."""

    def __init__(self, unet):
        super().__init__()
        self.model, self.label_embedding = unet, unet.class_embedding
        del unet.class_embedding


class Outer(nn.Module):
    """A network inside another module."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet


def older(state):
    """The names of attention that diffusers had before version 0.15."""
    for new, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."),
                     (".to_out.0.", ".proj_attn.")):
        state = {name.replace(new, old): weight for name, weight in state.items()}
    return state


def beside(unet):
    import copy

    return Conditioned(copy.deepcopy(unet))


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def assert_computes_the_same(pipeline, unet):
    x, t, labels = noise(2, 3, 16, 16), torch.tensor([3, 40]), torch.zeros(2, 24)
    labels[0, [3, 5]], labels[1, 20] = torch.tensor([1, 1 - 1 / 64]), 1
    with torch.no_grad():
        expected = unet(x, t, class_labels=(labels > 0.5).float()).sample
        torch.testing.assert_close(pipeline.unet(x, t, labels), expected, atol=1e-5, rtol=1e-4)


SAVED = {
    "state dict": lambda u: u.state_dict(),
    "under model, with its optimiser": lambda u: {
        "model": u.state_dict(), "optimizer": torch.optim.Adam(u.parameters()).state_dict()},
    "DataParallel": lambda u: {"net": nn.DataParallel(u).state_dict()},
    "inside another module": lambda u: {"state_dict": Outer(u).state_dict()},
    "half": lambda u: {name: weight.half() for name, weight in u.state_dict().items()},
    "older names": lambda u: older(u.state_dict()),
    "linear layer beside it": lambda u: {"state_dict": beside(u).state_dict()},
    "average": lambda u: {"model": {name: weight * 0 for name, weight in u.state_dict().items()},
                          "ema": u.state_dict()},
}


@pytest.mark.parametrize("kind", SAVED)
def test_the_originals_network_computes_the_same(outputs, small, theirs, tmp_path, kind):
    torch.save(SAVED[kind](theirs), tmp_path / "ddpm.pth")
    run = import_model(tmp_path / "ddpm.pth", small)
    pipeline = load_pipeline(run / "model")
    exact = kind != "half"
    if exact:
        assert_computes_the_same(pipeline, theirs)
    assert pipeline.scheduler.config.num_train_timesteps == 50
    about = imported(run)
    assert about["file"] == "ddpm.pth" and len(about["sha256"]) == 64
    assert about["where"] == {"average": "ema", "state dict": "", "half": "", "older names": "",
                              "under model, with its optimiser": "model", "DataParallel": "net",
                              "inside another module": "state_dict.unet",
                              "linear layer beside it": "model"}[kind]
    assert run.params() == small and run.stages()["train"]["state"] == "imported"


@pytest.mark.parametrize("save", [
    lambda unet, folder: unet.save_pretrained(folder),
    lambda unet, folder: unet.save_pretrained(folder, safe_serialization=False),
    lambda unet, folder: unet.save_pretrained(folder, variant="fp16"),
    lambda unet, folder: unet.save_pretrained(folder / "unet_ema"),
    lambda unet, folder: DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)])
def test_a_folder_of_diffusers(outputs, small, theirs, tmp_path, save):
    save(theirs, tmp_path / "saved")
    assert_computes_the_same(load_pipeline(import_model(tmp_path / "saved", small) / "model"),
                             theirs)
    path = next((tmp_path / "saved").rglob("*/config.json"), tmp_path / "saved/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_head_dim": 4}))
    with pytest.raises(UserError, match="its U-Net has attention_head_dim 4 where the parameters "
                                        "make 8"):
        import_model(tmp_path / "saved", small)


@pytest.fixture
def trained(tiny, outputs, dataset):
    """A run of this package with `model/` and `checkpoint.pt`, in another outputs folder."""
    run = Run("old", outputs=outputs.with_name("elsewhere"))
    params = tiny.replace(run="old", num_scenes=12, data_seed=5, data=str(dataset.folder))
    run.write_params(params)
    trainer = Trainer(params, dataset)
    awake(trainer.pipeline)
    trainer.ema.update(trainer.unet)
    save_pipeline(trainer.averaged(), run / "model")
    trainer.save(run / "checkpoint.pt")
    return run


@pytest.mark.parametrize("part", [".", "model", "checkpoint.pt", "model/unet",
                                  "model/unet/diffusion_pytorch_model.safetensors"])
def test_an_older_run_of_this_package(trained, outputs, part):
    params = trained.params()
    assert params_of(trained / part) == trained / "params.yaml"
    run = import_model(trained / part, params)
    before, after = (load_pipeline(each / "model") for each in (trained, run))
    for name in ("unet", "codec", "layout_prior"):
        assert same(*(dict(getattr(each, name).state_dict()) for each in (before, after)))
    assert run.folder == outputs / "old" and run.params() == params
    metrics = run.read("metrics.json")["train"]
    assert metrics["finished"] and metrics["layouts"] == 12
    assert metrics["imported"]["file"].endswith("model.safetensors" if "pt" not in part else ".pt")
    assert metrics["imported"]["where"] == ("parts.ema.model" if part == "checkpoint.pt" else "")
    with pytest.raises(UserError, match="its model has patch_size 8 where the parameters have 4"):
        check_imported(run, params.replace(patch_size=4))
    check_imported(run, params.replace(learning_rate=1.0, epochs=7, guidance_scale=2.0))


@pytest.mark.parametrize(("part", "changes", "words"), [
    ("model", {"class_emb_size": 64}, "has class_emb_size 32 where the parameters have 64"),
    ("model", {"num_train_timesteps": 30}, "has num_train_timesteps 20 where"),
    ("model", {"standardise": False}, "was trained on standardised images, but standardise is Fa"),
    ("model", {"layout": False}, "has layout True where the parameters have False"),
    ("checkpoint.pt", {"prediction_type": "epsilon", "loss_weighting": "uniform"},
     "was trained with prediction_type 'sample' where the parameters have 'epsilon'"),
    ("checkpoint.pt", {"holdout": "test_conditions"}, "was trained on other images")])
def test_a_model_of_other_parameters_is_refused(trained, outputs, part, changes, words):
    with pytest.raises(UserError, match=words):
        import_model(trained / part, trained.params().replace(**changes))
    assert not (outputs / "old/model").exists()


def test_a_model_of_another_network_says_which(outputs, small, theirs, tmp_path):
    torch.save({"model": theirs.state_dict()}, tmp_path / "ddpm.pth")
    with pytest.raises(UserError) as error:
        import_model(tmp_path / "ddpm.pth", small.replace(blocks=[0, 0, 1], channels=[1, 1, 2]))
    assert "ddpm.pth: found " in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith("; these weights have class_emb_size 128, blocks [0, 1], "
                                     "channels [1, 2] and layers_per_block 1")
    torch.save(theirs, tmp_path / "whole.pth")
    with pytest.raises(UserError, match="a whole pickled model, .* model = torch.load"):
        import_model(tmp_path / "whole.pth", small)
    for path, words in ((tmp_path / "no.pth", "no such file"),
                        (tmp_path, "a folder without a model, expected a model of this package")):
        with pytest.raises(UserError, match=words):
            import_model(path, small)
    with pytest.raises(UserError, match="no params.yaml beside it, say what it is with --params"):
        params_of(tmp_path / "ddpm.pth")


def test_the_u_net_of_diffusers_is_not_taken_for_a_u_vit(outputs, small, theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "theirs/unet")
    with pytest.raises(UserError, match="a UNet2DModel where .* backbone 'u_vit', expected .*unet"):
        import_model(tmp_path / "theirs", small.replace(backbone="u_vit"))


def test_what_was_trained_here_is_not_replaced(trained, tiny, outputs, small, theirs, tmp_path,
                                               dataset):
    torch.save(theirs.state_dict(), tmp_path / "ddpm.pth")
    run = import_model(tmp_path / "ddpm.pth", small)
    shutil.copytree(trained / "model", outputs / "mine/model")
    with pytest.raises(UserError, match="has a model that was trained there, take another name"):
        import_model(tmp_path / "ddpm.pth", small.replace(run="mine"))
    import_model(tmp_path / "ddpm.pth", small)  # again is no matter
    with pytest.raises(UserError, match="is the model of the run '.*' itself, take another name"):
        import_model(run.folder, small)
    assert (run / "model/unet/config.json").exists()
    with pytest.raises(UserError, match="not trained here, its model is imported from ddpm.pth; "
                                        "take another run name to train"):
        train_in(run, small, dataset, None)
    assert not (run / "checkpoint.pt").exists()
    with pytest.raises(UserError, match="its model has channels .1, 2. where"):
        run_stages(["train"], small.replace(channels=[1, 3]))


def test_the_command_makes_a_run_that_is_scored(outputs, small, theirs, tmp_path, capsys, rendered):
    torch.save(theirs.state_dict(), tmp_path / "ddpm.pth")
    params = small.replace(run="", experiments=["timesteps"])
    (tmp_path / "seed.yaml").write_text(to_yaml(params))
    assert main(["import", str(tmp_path / "ddpm.pth"), "--params", str(tmp_path / "seed.yaml"),
                 "--data", str(rendered)]) == 0
    printed = capsys.readouterr().out
    assert "seed: imported from ddpm.pth\nnow: python -m cddpm_core report --params " in printed
    assert printed.strip().endswith("seed/params.yaml")
    assert (Run("seed") / "figures/network.png").exists()
    run = run_stages(["train", "evaluate", "timesteps"], Run("seed").params())
    printed = capsys.readouterr().out
    assert "train: not trained here, its model is imported from ddpm.pth" in printed
    assert "timesteps: left out, it compares trainings" in printed
    assert 0 <= run.read("metrics.json")["test"]["micro"] <= 1
    facts = read_facts(run, run.params())
    said = training(facts).markdown()
    assert "**not trained here**" in said and "`ddpm.pth`" in said and "learning_rate" not in said
    assert "–" in runs_table(facts, [Group((facts,))])
    about = {**facts.metrics, "data": {"kind": "real", "images": 36}, "total_seconds": 1.0}
    assert "model: imported from ddpm.pth, not trained here" in run_lines(about)
    assert not (run / "train.ipynb").exists() and run.stages()["evaluate"]["state"] == "done"
    assert main(["import", str(tmp_path / "ddpm.pth")]) == 2
    assert "params.yaml" in capsys.readouterr().err


def test_layouts_that_are_unknown_are_no_matter(outputs, tiny, folder):
    from cddpm_core.data.dataset import IclevrDataset

    params = tiny.replace(run="flat", data=str(folder), image_size=64)
    dataset = IclevrDataset(folder)
    dataset.__dict__["positions"] = torch.full((3, 24, 2), torch.nan)
    save_pipeline(make_pipeline(params, dataset), outputs.with_name("old") / "model")
    run = import_model(outputs.with_name("old") / "model", params)
    assert run.read("metrics.json")["train"]["layouts"] == 0
