"""The network of the stand-in evaluator."""

from __future__ import annotations

import torch

from cddpm_core.evaluation.network import Located, StandInNetwork, rounded_state


def test_shapes_and_that_probabilities_are_those_of_the_logits(images: torch.Tensor) -> None:
    network = StandInNetwork().eval()
    assert network.features(images).shape == (len(images), 512)
    middle, last = network.maps(images)
    assert middle.shape[1:] == (128, 8, 8) and last.shape[1:] == (256, 4, 4)
    logits = network.logits(images)
    assert logits.shape == (len(images), 24)
    torch.testing.assert_close(network(images), logits.sigmoid())


def test_the_heads_locate_and_share_the_network(images: torch.Tensor) -> None:
    located = Located().eval()
    objects, attributes, cells = located(images)
    assert attributes.shape[1:] == (11, 8, 8) and cells.shape[1:] == (24, 4, 4)
    torch.testing.assert_close(objects, located.network.logits(images))
    assert objects.sigmoid().mean() < 0.2  # most objects are absent


def test_an_object_counts_wherever_it_stands() -> None:
    last = torch.zeros(2, 256, 4, 4)
    last[0, 7, 0, 1] = last[1, 7, 3, 2] = 5.0
    pooled = StandInNetwork.pooled(last)
    assert torch.equal(pooled[0], pooled[1]) and pooled[0, 7] == 5 / 16 and pooled[0, 263] == 5


def test_rounding_keeps_the_statistics_of_normalisation() -> None:
    state = rounded_state(StandInNetwork())
    assert state["fc.weight"].dtype == torch.bfloat16
    assert state["stem.1.running_var"].dtype == torch.float32
