import torch
from safetensors.torch import load_file

from cddpm_core.evaluation.evaluator import Evaluator, build_resnet18
from cddpm_core.runs.periodic import early_variant, periodic_evaluation
from cddpm_core.runs.run import Run
from cddpm_core.training.loop import train

WEIGHTS = "model/unet/diffusion_pytorch_model.safetensors"


def test_the_variant_that_is_kept_is_the_training_stopped_there(tiny, dataset, tmp_path):
    params = tiny.replace(evaluate_every=1, experiment_epochs=1, ema_decay=0.5)
    evaluator = Evaluator(build_resnet18(), "stand-in", "0" * 64)
    whole, stopped = Run("whole", outputs=tmp_path), Run("stopped", outputs=tmp_path)
    train(params, dataset, whole.folder, evaluate=periodic_evaluation(
        whole, params, dataset, evaluator))
    kept = early_variant(whole, params, 1)
    steps = -(-len(dataset) // params.batch_size)
    result = train(params.replace(max_steps=steps), dataset, stopped.folder)
    assert result["steps"] == steps and not result["finished"]
    first, second, final = (load_file(run / WEIGHTS) for run in (kept, stopped, whole))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], final[key]) for key in first)
    scored = [line for line in whole.history() if "test" in line]
    assert [line["step"] for line in scored] == [steps]
    assert all(line["test"]["sharpness"] > 0 for line in scored)
    assert (whole / "figures/progress/epoch_001.png").exists()


def test_nothing_is_kept_if_none_is_asked_for(tiny, dataset, run):
    params = tiny.replace(evaluate_every=1, experiment_epochs=0)
    evaluator = Evaluator(build_resnet18(), "stand-in", "0" * 64)
    train(params, dataset, run.folder, evaluate=periodic_evaluation(
        run, params, dataset, evaluator))
    assert not (run / "timesteps").exists()
