import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.seeds import numpy_generator, stream_seed, torch_generator

seeds = st.integers(0, 2**63 - 1)
streams = st.tuples(st.text(max_size=20), st.integers(0, 2**32 - 1))


@given(seeds, streams)
def test_a_stream_repeats(seed, stream):
    assert 0 <= stream_seed(seed, *stream) < 2**63
    for make in (lambda: numpy_generator(seed, *stream).random(3),
                 lambda: torch.rand(3, generator=torch_generator(seed, *stream)).numpy()):
        np.testing.assert_array_equal(make(), make())


@given(seeds, seeds, streams, streams)
def test_other_seeds_and_streams_are_other_numbers(seed, other, stream, another):
    if seed != other:
        assert stream_seed(seed, *stream) != stream_seed(other, *stream)
    if stream != another:
        assert stream_seed(seed, *stream) != stream_seed(seed, *another)


def test_streams_of_neighbouring_seeds_do_not_overlap():
    found = {stream_seed(seed, "image", i) for seed in range(100) for i in range(64)}
    assert len(found) == 6400
