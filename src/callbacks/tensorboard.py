"""The run's TensorBoard curves: one event file a run."""

from __future__ import annotations

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, kept open from the training to the final test.

    Lightning closes a logger after each of fit, validate and test, and so begins a new event file for each; and it
    writes a hparams.yaml, where a run has its config.yaml.
    """

    @rank_zero_only
    def save(self) -> None:
        """Nothing: the writer flushes by itself."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called after each stage; `close` ends the file."""
        if self._experiment is not None:
            self.experiment.flush()

    def close(self) -> None:
        """End the event file."""
        if self._experiment is not None:
            self.experiment.close()
