"""The run's TensorBoard curves: one event file a run."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from src.kindling.config.compose import Config, flatten
from src.kindling.runs.redact import redacted

KEPT = ("num_threads", "compile", "channels_last", "checkpoint_minutes", "max_nonfinite_steps")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, kept open from the training to the final test.

    Lightning closes a logger after each of fit, validate and test, and so starts a new event file
    for each; and it writes a hparams.yaml, where a run has its config.yaml.
    """

    @rank_zero_only
    def save(self) -> None:
        """Nothing: the writer flushes by itself."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called after each stage; `close` ends the file."""
        if self._experiment is not None:
            self.experiment.flush()

    def log_result(self, config: Config, metrics: Mapping[str, float], step: int) -> None:
        """A row of the HParams tab: the config's values beside the final numbers.

        Through Lightning's `log_hyperparams`, the numbers would be points at step 0 of the curves.
        """
        # What the machine is given, or how a run is kept, is not among them.
        values = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in flatten(redacted(config.values)).items()
            if value not in (None, [], {}) and key not in KEPT
        }
        # The curves of val/ end with the last epoch; these numbers are the best checkpoint's.
        final = {name.replace("val/", "val_best/"): value for name, value in metrics.items()}
        for name in (name for name in final if name.startswith("val_best/")):
            self.experiment.add_scalar(name, final[name], step)
        for summary in hparams(values, final):  # type: ignore[no-untyped-call]
            self.experiment._get_file_writer().add_summary(summary)

    def close(self) -> None:
        """End the event file."""
        if self._experiment is not None:
            self.experiment.close()
