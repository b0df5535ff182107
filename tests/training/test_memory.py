import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch.autograd.graph import saved_tensors_hooks

from cddpm_core.config.errors import UserError
from cddpm_core.training.checkpoint import read_checkpoint
from cddpm_core.training.loop import train
from cddpm_core.training.memory import SPARE, check_memory, memory_of, saved_bytes
from cddpm_core.training.trainer import Trainer


@pytest.mark.parametrize("arithmetic", ["no", "bf16"])
def test_the_estimate_is_what_a_step_of_another_size_saves(tiny, dataset, arithmetic):
    params = tiny.replace(mixed_precision=arithmetic, batch_size=7)
    trainer, found = Trainer(params, dataset), {}
    memory = memory_of(trainer)
    assert memory.per_pass + 7 * memory.per_image == pytest.approx(
        saved_bytes(trainer.unet, 7, params), rel=0.01)
    weights = {w.untyped_storage().data_ptr() for w in trainer.weights}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.update()
    assert memory.per_pass + 7 * memory.per_image == pytest.approx(sum(found.values()), rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "ema_decay": 0.0}])
def test_the_estimate_of_the_state_is_what_is_there_after_a_step(tiny, dataset, changes):
    trainer = Trainer(tiny.replace(**changes), dataset)
    expected = memory_of(trainer).state
    trainer.update()
    moments = [m for o in trainer.optimizers for state in o.state.values() for m in state.values()]
    weights = [*trainer.weights, *(w.grad for w in trainer.weights),
               *(trainer.ema.model.parameters() if trainer.ema else ())]
    assert expected == sum(x.nbytes for x in [*weights, *(m for m in moments if m.ndim)])


@pytest.mark.parametrize("images", [20, 8, 3, 1])
def test_the_steps_that_are_named_fit_and_fewer_do_not(tiny, dataset, images):
    trainer = Trainer(tiny.replace(batch_size=20), dataset)
    available = math.ceil(SPARE * memory_of(trainer).needed(images))
    for steps in range(1, 21):
        trainer.params = tiny.replace(batch_size=20, gradient_accumulation_steps=steps)
        if math.ceil(20 / steps) <= images:
            check_memory(trainer, available)
            continue
        with pytest.raises(UserError, match="batch_size: a training with 20 images in a step needs "
                           f".* GiB; expected gradient_accumulation_steps {math.ceil(20 / images)} "
                           f"or more, found {steps}$"):
            check_memory(trainer, available)


def test_a_network_that_is_too_large_for_one_image_is_named(tiny, dataset):
    trainer = Trainer(tiny, dataset)
    with pytest.raises(UserError, match="expected a smaller class_emb_size than 32, not even one"):
        check_memory(trainer, math.ceil(SPARE * memory_of(trainer).needed(0)))
    check_memory(trainer)  # which asks no CPU what is free


# A training whose process may take no more memory after its first step.
LIMITED = """
import pickle, resource, sys
from pathlib import Path
from cddpm_core.training.loop import train

def evaluate(pipeline, name):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**24, -1))
    return {}

params, dataset = pickle.load(sys.stdin.buffer)
train(params, dataset, Path(sys.argv[1]), evaluate=evaluate)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_step_without_memory_is_one_sentence_and_the_state_before_it_is_kept(tiny, dataset,
                                                                               tmp_path):
    params = tiny.replace(batch_size=256, evaluate_every=1, epochs=20)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], input=pickle.dumps((params, dataset)),
        cwd=ROOT, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"})
    said = done.stderr.decode().splitlines()[-1]
    assert "UserError: batch_size: device cpu ran out of memory in step 2 with batch_size 256, " \
        "256 images at a time; raise gradient_accumulation_steps, now 1," in said
    assert said.endswith(f"The same command continues from {tmp_path / 'checkpoint.pt'}")
    assert read_checkpoint(tmp_path / "checkpoint.pt")["step"] == 1
    assert train(params.replace(gradient_accumulation_steps=8), dataset, tmp_path)["finished"]


@pytest.mark.parametrize("where", ["before the step changes anything", "while it does"])
def test_a_half_changed_state_is_not_saved(tiny, dataset, tmp_path, monkeypatch, where):
    step = Trainer._step

    def failing(trainer, found):
        if trainer.step < 4:
            return step(trainer, found)
        trainer.counters.step += where.startswith("while")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    assert train(tiny.replace(max_steps=2), dataset, tmp_path)["steps"] == 2
    monkeypatch.setattr(Trainer, "_step", failing)
    with pytest.raises(UserError, match="ran out of memory in step 5 with batch_size 8"):
        train(tiny, dataset, tmp_path)
    saved = read_checkpoint(tmp_path / "checkpoint.pt")["step"]
    assert saved == (2 if where.startswith("while") else 4)


def test_another_error_stays_what_it_is(tiny, dataset, tmp_path, monkeypatch):
    def failing(trainer):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Trainer, "update", failing)
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        train(tiny, dataset, tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_estimate_is_near_the_peak_of_a_gpu(tiny, dataset):
    trainer = Trainer(tiny.replace(device="cuda", class_emb_size=128, attention_head_dim=32,
                                   batch_size=256, mixed_precision="bf16"), dataset)
    needed = SPARE * memory_of(trainer).needed(256)
    torch.cuda.reset_peak_memory_stats()
    trainer.update()
    assert 0.6 * needed < torch.cuda.max_memory_allocated() < needed
