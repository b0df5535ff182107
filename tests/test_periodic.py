import torch
from safetensors.torch import load_file

from cddpm_core.evaluator import Evaluator, build_resnet18
from cddpm_core.periodic import early_arm, periodic_evaluation
from cddpm_core.runs import Run
from cddpm_core.training import result_at, train

WEIGHTS = "model/unet/diffusion_pytorch_model.safetensors"


def test_the_arm_kept_is_the_training_stopped_there(tiny, dataset, tmp_path):
    params = tiny.replace(evaluate_every=1, experiment_epochs=1, ema_decay=0.5)
    evaluator = Evaluator(build_resnet18(), "stand-in", "0" * 64)
    whole, stopped = Run("whole", outputs=tmp_path), Run("stopped", outputs=tmp_path)
    train(params, dataset, whole, evaluate=periodic_evaluation(whole, params, evaluator))
    kept = early_arm(whole, params, 1)
    steps = -(-len(dataset) // params.batch_size)
    result = train(params.replace(max_steps=steps), dataset, stopped)
    assert result["steps"] == steps and not result["finished"]
    first, second = load_file(kept / WEIGHTS), load_file(stopped / WEIGHTS)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    final = load_file(whole / WEIGHTS)
    assert any(not torch.equal(first[key], final[key]) for key in first)
    scored = [line for line in whole.history() if "test" in line]
    assert [line["step"] for line in scored] == [steps]
    assert (whole / "figures/progress/epoch_001.png").exists()


def test_nothing_is_kept_where_none_is_asked_for(tiny, dataset, run):
    params = tiny.replace(evaluate_every=1, experiment_epochs=0)
    evaluator = Evaluator(build_resnet18(), "stand-in", "0" * 64)
    train(params, dataset, run, evaluate=periodic_evaluation(run, params, evaluator))
    assert not (run / "timesteps").exists()


def test_a_result_at_a_step_is_that_of_the_lines_before_it(tiny, run):
    lines = [{"step": 25 * i, "loss": float(i), "seconds": 10.0 * i} for i in range(1, 21)]
    (run / "history.jsonl").parent.mkdir(exist_ok=True)
    (run / "history.jsonl").write_text("".join(f"{line}\n" for line in lines).replace("'", '"'))
    found = result_at(run, 310, tiny)
    assert found == {"steps": 310, "images": 310 * tiny.batch_size, "seconds": 120.0, "loss": 8.5}
    assert result_at(run, 10, tiny) == {"steps": 10, "images": 80, "seconds": 0.0, "loss": 0.0}
