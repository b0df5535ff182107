"""What tests share: a tiny rendered data set, small parameters, and the lab's files if at hand.

Each folder of the package has a folder of tests with one file for each of its modules. Fixtures of
the scope "session" are shared by all tests of a process and must not be changed.
"""

from __future__ import annotations

import cddpm_core  # noqa: F401  it sets how threads wait, before torch is loaded

# isort: split
import contextlib
import io
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.labels import OBJECTS

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
# No test fails for the time it takes: the machine may be busy with something else.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")
TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
LABELS = {
    "CLEVR_train_000000_0.png": ["red cube"],
    "CLEVR_train_000000_1.png": ["red cube", "cyan sphere"],
    "CLEVR_train_000000_2.png": ["red cube", "cyan sphere", "gray cylinder"],
}
# Files and folders, the longest first, so that no process is left alone with one in the end.
# The first makes the run `smoke`; what reads it comes when it is finished.
LONG = ["runs/test_smoke", "test_torture", "runs/test_train", "bench", "training", "runs",
        "report/test_export", "test_lab", "report"]


def pytest_collection_modifyitems(items):
    def rank(item):
        name = item.path.relative_to(TESTS).with_suffix("").as_posix()
        return next((i for i, long in enumerate(LONG) if f"{name}/".startswith(f"{long}/")),
                    len(LONG))

    items.sort(key=rank)


def picture(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth RGB image, as a rendered one is."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def normalised(pixels: np.ndarray, **options) -> np.ndarray:
    """Images, uint8 (N, H, W, 3), as they are in a grid made with ``normalize=True``."""
    from torchvision.utils import make_grid

    x = torch.from_numpy(pixels).movedim(-1, 1).float()
    cells = make_grid(x, nrow=1, padding=0, normalize=True, **options)
    return (cells * 255).round().byte().movedim(0, -1).numpy().reshape(pixels.shape)


def awake(model):
    """Return a network or pipeline with small weights where a new U-ViT has zeros.

    With these zeros its output is zero, whatever the input.
    """
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        network = model if isinstance(model, torch.nn.Module) else model.unet
        for weight in network.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.1, generator=generator)
    return model


def same(a, b) -> bool:
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="session")
def lab() -> Path:
    """The lab's four label files."""
    if not (SHARED / "lab").is_dir():
        pytest.skip("the lab's label files are not at ../shared/lab")
    return SHARED / "lab"


@pytest.fixture(scope="session")
def rendered(tmp_path_factory) -> Path:
    """A data folder of 12 rendered scenes, 36 images, in the lab's layout."""
    from cddpm_core.scenes.dataset import render_dataset  # numba loads slowly

    folder = tmp_path_factory.mktemp("data") / "rendered"
    render_dataset(folder, num_scenes=12, seed=5, progress=False)
    return folder


@pytest.fixture(scope="session")
def dataset(rendered) -> IclevrDataset:
    """The images of `rendered`."""
    return IclevrDataset(rendered)


@pytest.fixture
def folder(tmp_path):
    """A set in the lab's layout: 320x240 RGB images in iclevr/, labels beside it."""
    (tmp_path / "set/iclevr").mkdir(parents=True)
    (tmp_path / "set/train.json").write_text(json.dumps(LABELS))
    (tmp_path / "set/objects.json").write_text(json.dumps({n: i for i, n in enumerate(OBJECTS)}))
    for index, name in enumerate(LABELS):
        picture(index).save(tmp_path / "set/iclevr" / name)
    return tmp_path / "set"


@pytest.fixture(scope="session")
def tiny() -> Params:
    """Parameters of a network that trains in a second."""
    return Params(class_emb_size=32, blocks=[0, 1], channels=[1, 2], layers_per_block=1,
                  transformer_blocks=1, attention_head_dim=8,
                  patch_size=8, batch_size=8, epochs=2, num_train_timesteps=20,
                  num_inference_steps=5, lr_warmup_steps=2, evaluate_every=0,
                  mixed_precision="no", device="cpu")


@pytest.fixture(scope="session")
def tiny_pipeline(tiny, dataset):
    """An untrained pipeline of `tiny` on `dataset` whose images depend on label and positions."""
    from cddpm_core.sampling.pipeline import make_pipeline

    pipeline = awake(make_pipeline(tiny, dataset))
    with torch.no_grad():
        pipeline.unet.class_embedding.weight.mul_(20)
        pipeline.unet.object_embeddings.mul_(10)
    pipeline.unet.eval()
    return pipeline


@pytest.fixture
def run(tmp_path):
    """A run without files in an outputs folder of its own."""
    from cddpm_core.runs.run import Run

    return Run("tiny", outputs=tmp_path)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Five images of noise, (5, 3, 64, 64) in [-1, 1]."""
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="session")
def sampled() -> np.ndarray:
    """Images that ``quick`` sampled for ``test``, uint8 (32, 64, 64, 3); the last misses objects.

    It is the image of another condition, since the network may make no mistake of its own.
    """
    from cddpm_core.evaluation.given_images import read_images

    pixels = read_images(ROOT / "outputs/quick_test.png", expected=32).pixels.copy()
    pixels[-1] = pixels[2]
    return pixels


@pytest.fixture
def poison(monkeypatch):
    """Training steps, counted from 0, whose loss is made NaN."""
    from cddpm_core.training import trainer

    bad, seen, target = set(), [], trainer.target

    def wanted(*args):
        seen.append(None)
        return target(*args) * (math.nan if len(seen) - 1 in bad else 1)

    monkeypatch.setattr(trainer, "target", wanted)
    return bad


@pytest.fixture(scope="session")
def chromium():
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("no Chromium here, Debian's package 'chromium' brings one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[
            "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"])
        yield browser
        browser.close()


# What makes the run of params/smoke.yaml faster still.
SMALLER = {"num_scenes": 24, "heldout_scenes": 6, "class_emb_size": 32, "num_train_timesteps": 20,
           "num_inference_steps": 4, "analysis_images": 8}


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A finished run of all stages with its report, to be read only; its images are noise.

    One process makes it with ``make report``'s command, for the processes of all tests.
    """
    from cddpm_core.__main__ import main
    from cddpm_core.runs.run import OUTPUTS, Run

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all workers share
    run = Run("smoke", outputs=base / "smoke_outputs")
    run.outputs.mkdir(exist_ok=True)
    with FileLock(base / "smoke.lock"), pytest.MonkeyPatch.context() as patch:
        if (run.outputs / "printed.txt").exists():
            return run
        patch.setenv(OUTPUTS, str(run.outputs))
        changes = [word for key, value in SMALLER.items() for word in ("-p", key, str(value))]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["report", "--params", "params/smoke.yaml", *changes]) == 0
        (run.outputs / "printed.txt").write_text(printed.getvalue())
    return run


@pytest.fixture
def smoke_copy(smoke, tmp_path, monkeypatch):
    """A copy of `smoke` to be changed, in the outputs folder that commands use."""
    from cddpm_core.runs.run import OUTPUTS, Run

    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    shutil.copytree(smoke.outputs, tmp_path / "outputs")
    return Run(smoke.name)
