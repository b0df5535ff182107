import threading

import pytest
import torch

from cddpm_core.config import device as module
from cddpm_core.config.device import (
    SideBySide,
    arithmetic_of,
    autocast,
    computes_bf16,
    device_of,
)
from cddpm_core.config.errors import UserError


def test_a_device_that_is_not_there_is_one_sentence(tiny):
    assert device_of(tiny) == torch.device("cpu")
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    assert device_of(tiny.replace(device="auto")).type == (best.type if best else "cpu")
    absent = next(kind for kind in ("mps", "cuda") if best is None or best.type != kind)
    with pytest.raises(UserError, match=f"device: '{absent}' is not there"):
        device_of(tiny.replace(device=absent))


@pytest.mark.parametrize("there", [True, False])
def test_bf16_is_not_used_where_it_is_only_imitated(monkeypatch, there):
    assert computes_bf16("mps")
    monkeypatch.setattr(module, "computes_bf16", lambda device: there)
    assert arithmetic_of("bf16", "cpu") == ("bfloat16" if there else "float32")
    assert arithmetic_of("no", "cpu") == "float32"
    assert arithmetic_of("auto", "cpu") == arithmetic_of("bf16", "cpu")
    assert arithmetic_of("fp16", "cpu") == "float32"
    # A card of the year 2018 imitates it.
    assert arithmetic_of("auto", "cuda") == ("bfloat16" if there else "float16")
    assert arithmetic_of("bf16", "cuda") == ("bfloat16" if there else "float32")
    assert (arithmetic_of("fp16", "cuda"), arithmetic_of("no", "cuda")) == ("float16", "float32")
    for precision, expected in (("bf16", torch.bfloat16 if there else torch.float32),
                                ("no", torch.float32)):
        with autocast("cpu", precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is expected


@pytest.mark.parametrize(("parts", "cores", "together"), [(2, 2, True), (2, 1, False),
                                                          (1, 4, False)])
def test_work_side_by_side_is_done_at_once_with_a_part_of_the_cores(parts, cores, together):
    before, barrier, seen = torch.get_num_threads(), threading.Barrier(2), []

    def work(a, b):
        seen.append(torch.get_num_threads())
        if together:
            barrier.wait(60)  # broken unless both calls run at once
        return a - b

    torch.set_num_threads(cores)
    try:
        assert SideBySide(parts)(work, [5, 7], [1, 2]) == [4, 5]
        assert seen == [cores // parts if together else cores] * 2
        assert torch.get_num_threads() == cores
        assert SideBySide(parts)(lambda a: torch.get_num_threads(), [0]) == [cores]
        with pytest.raises(ZeroDivisionError):
            SideBySide(parts)(lambda a: 1 / a, [0, 0])
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
