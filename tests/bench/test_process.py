import numpy as np

from cddpm_core.bench.process import in_its_own_process, peak_mib


def test_peak_memory_is_that_of_the_process_alone():
    held = np.ones((800, 2**20), np.uint8)  # 800 MiB
    del held
    assert 800 < peak_mib() < 1e6
    found = in_its_own_process(dict, {"a": 1})
    assert found["a"] == 1 and 5 < found["peak_mib"] < 400
