"""What a notebook works with: its run, and data, model and evaluator, loaded when first used."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cddpm_core.config.schema import Params
from cddpm_core.runs.run import Run, command, open_run

if TYPE_CHECKING:
    import torch

    from cddpm_core.data.dataset import IclevrDataset
    from cddpm_core.data.source import DataSource
    from cddpm_core.evaluation.evaluator import Evaluator
    from cddpm_core.sampling.pipeline import ClassConditionedPipeline

__all__ = ["Session", "open_session"]


class Session:
    """A run with its parameters, and what they describe.

    The imports stand in the properties: a stage depends on the modules of those that its notebook
    names (see `modules.reached_modules`), and the notebook waits for no others.
    """

    def __init__(self, run: Run, params: Params) -> None:
        self.run, self.params = run, params

    @cached_property
    def device(self) -> torch.device:
        """Where to compute."""
        from cddpm_core.config.device import device_of

        return device_of(self.params)

    @cached_property
    def source(self) -> DataSource:
        """Where the images come from; renders scenes that are not in the cache."""
        from cddpm_core.data.source import data_source

        return data_source(self.params, self.run.cache)

    @cached_property
    def dataset(self) -> IclevrDataset:
        """The training images."""
        from cddpm_core.data.source import load_dataset

        return load_dataset(self.params, self.run.cache)

    @cached_property
    def trained(self) -> dict[str, Any]:
        """What ``metrics.json`` says of the training; prints a line if it is not finished.

        Raises `UserError` with the command that trains if there is nothing yet.
        """
        found = self.run.need("train", command(self.run, "train"))
        if not found["finished"]:
            print("The training of this model is NOT finished.")
        return found

    @cached_property
    def pipeline(self) -> ClassConditionedPipeline:
        """The trained model, on `device`."""
        from cddpm_core.sampling.pipeline import load_pipeline

        _ = self.trained
        return load_pipeline(self.run / "model", self.device)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator that the parameters name: the released stand-in, if they name none."""
        from cddpm_core.evaluation.stand_in import load_evaluator

        return load_evaluator(self.params.evaluator, self.device)


def open_session(namespace: Mapping[str, Any]) -> Session:
    """Return the session of a notebook, given its ``globals()``; see `open_run`.

    It belongs in the cell after the parameters cell, which may be run again at any time.
    """
    session = Session(*open_run(namespace))
    print(f"run {session.run.name!r}")
    return session
