"""What Kindling is expected to do with each foreign module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class Case:
    """One module with its config.

    Attributes:
        name: of `modules/<name>.py` and `configs/<name>.yaml`.
        monitor: the metric of the best checkpoint; None where nothing of validation is logged, so
            that only the last checkpoint is kept.
        mode: whether a lower or a higher value is better.
        monitor_from_config: the config has to set it, as several validation metrics are logged and
            none has a usual name; without it, training ends with the list of `logged` metrics.
        logged: every name in the Trainer's `logged_metrics` after fit.
        has_validation, has_test, has_predict_step, has_forward: what the module (and its data)
            define themselves.
        exact_resume: the module keeps everything that shapes its training in its state_dict; where
            not (a replay buffer, say), resume works but ends in other weights.
        columns: what `predict_step` returns by name; these are saved for every sample.
        predict, export, look, crossval, benchmark: the word that the one line of refusal contains,
            which names the missing addition; None where the command works.
    """

    name: str
    monitor: str | None = None
    mode: Literal["min", "max"] = "min"
    monitor_from_config: bool = False
    logged: tuple[str, ...] = ()
    has_validation: bool = True
    has_test: bool = True
    has_predict_step: bool = False
    has_forward: bool = True
    exact_resume: bool = True
    columns: tuple[str, ...] = ()
    predict: str | None = "predict_step"
    export: str | None = None
    look: str | None = "spec"  # the data is no DataModule of Kindling
    crossval: str | None = "fold"  # no argument of these data modules
    benchmark: str | None = None


# Modules with loaders of their own have no data section for these commands.
NO_DATA = {"look": "data", "crossval": "data"}

CASES = (
    Case(
        "bare_minimum",
        logged=("loss",),
        has_validation=False,
        has_test=False,
        has_forward=False,
        export="forward",
    ),
    Case(
        "char_lm",
        "val_loss",
        logged=("train_loss", "grad_norm", "val_loss", "val_bpc"),
        has_test=False,
    ),
    Case(
        "combined_loader",
        "val_loss",
        logged=("train_loss", "pseudo_labeled", "val_loss", "val_acc"),
    ),
    Case(
        "dataclass_batch",
        "val_r2",
        "max",
        True,
        logged=("train_loss", "val_mae", "val_mse", "val_r2"),
    ),
    Case(
        "detector", "val/loss", logged=("train/loss_heat", "val/loss"), export="example_input_array"
    ),
    Case("distillation", "val/acc", "max", logged=("train/kd", "train/loss", "val/acc")),
    Case("docs_autoencoder", "val_loss", logged=("train_loss", "val_loss")),
    Case(
        "dqn",
        logged=("train_loss", "reward_per_episode"),
        has_validation=False,
        has_test=False,
        exact_resume=False,
        **NO_DATA,
    ),
    Case("gan", logged=("g_loss", "d_loss", "sample_radius"), has_validation=False, has_test=False),
    Case(
        "hydra_template",
        "val/loss",
        logged=("val/loss", "val/acc", "val/acc_best", "train/loss", "train/acc"),
    ),
    Case("kwargs_callbacks", "val/loss", logged=("train/loss", "val/loss", "val/accuracy")),
    Case(
        "lstm_forecaster",
        "val_loss",
        logged=("val_loss", "train_loss"),
        has_predict_step=True,
        columns=("prediction", "target"),
        predict=None,
    ),
    Case(
        "metric_names",
        "metrics/top1",
        "max",
        True,
        logged=(
            "fit_loss_step",
            "fit_loss_epoch",
            "lr",
            "valid_loss_step",
            "valid_loss_epoch",
            "metrics/top1",
            "epoch_val_f1",
        ),
    ),
    Case(
        "old_package",
        "loss/val",
        logged=("loss/train", "loss/val"),
        has_predict_step=True,
        export="vocabulary",  # an object of the data, which a checkpoint cannot hold
    ),
    Case("own_loaders", "val_acc", "max", logged=("val_acc",), has_predict_step=True, **NO_DATA),
    Case("random_features", "val_loss", logged=("val_loss",)),
    Case(
        "segmentation_hparams",
        "val_dice",
        "max",
        logged=("train_loss", "val_dice"),
    ),
    Case(
        "several_val_loaders",
        "val_loss/dataloader_idx_1",
        "min",
        True,
        logged=("train_loss", "val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"),
    ),
    Case("silent", has_test=False),
    Case("streaming", "val/mse", logged=("train/mse", "val/mse"), has_test=False),
    Case("tensorboard_images", "val_loss", logged=("val_loss",), has_test=False),
    Case(
        "text_classifier",
        "val_loss",
        logged=("train_loss", "val_loss", "val_acc"),
        export="one tensor",
    ),
    Case(
        "vae_ema",
        "val/loss",
        logged=("train/rec", "train/kl", "val/loss", "val/rec", "val/kl", "sample_std"),
        has_test=False,
        has_forward=False,
        export="forward",
    ),
    Case("weighted_sampler", "val_f1", "max", logged=("loss", "val_f1"), has_test=False),
    Case(
        "attributes",
        "val_loss",
        logged=("training_epoch_mean", "val_loss"),
        has_test=False,
    ),
    Case(
        "combined_modes", "val_loss", logged=("loss_step", "loss_epoch", "val_loss"), has_test=False
    ),
    Case(
        "live_environment",
        logged=("loss",),
        has_validation=False,
        has_test=False,
        exact_resume=False,
        **NO_DATA,
    ),
    Case(
        "manual_accumulation",
        "val_loss",
        logged=("loss_step", "loss_epoch", "val_loss"),
        has_test=False,
    ),
    Case("own_callback", "val_acc", "max", logged=("train_acc", "val_acc"), has_test=False),
    Case("reloading", "val_loss", logged=("train_loss", "val_loss"), has_test=False, **NO_DATA),
    Case(
        "samplers",
        "val_loss",
        logged=("train_loss_step", "train_loss_epoch", "train_acc", "train_f1", "val_loss"),
        has_test=False,
    ),
    Case("streams", "val/mse", logged=("train/mse", "val/mse"), has_test=False),
    Case("training_length", "val_loss", logged=("train_loss", "val_loss"), has_test=False),
    Case("forces", "val_force_loss", logged=("val_force_loss",)),
    Case(
        "memory_bank",
        "val_auroc",
        "max",
        logged=("val_auroc",),
        has_test=False,
        has_forward=False,
        export="forward",
    ),
    Case("annealed_teacher", "val_loss", logged=("val_loss",), has_test=False),
    Case("dataset_generator", "val_loss", logged=("val_loss",), has_test=False),
    Case("counting_stream", "val_loss", logged=("val_loss",), has_test=False),
)
