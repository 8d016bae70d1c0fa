"""Metrics, losses, optimizers, schedules and pretrained nets."""

from __future__ import annotations

from src.kindling.nn.losses import CrossEntropyDiceLoss as CrossEntropyDiceLoss
from src.kindling.nn.losses import weigh_classes as weigh_classes
from src.kindling.nn.losses import weigh_labels as weigh_labels
from src.kindling.nn.meter import Meter as Meter
from src.kindling.nn.metrics import Overlap as Overlap
from src.kindling.nn.metrics import RegressionScores as RegressionScores
from src.kindling.nn.metrics import multiclass_metrics as multiclass_metrics
from src.kindling.nn.metrics import multilabel_metrics as multilabel_metrics
from src.kindling.nn.metrics import with_extra as with_extra
from src.kindling.nn.optimizers import configure as configure
from src.kindling.nn.pretrained import Pretrained as Pretrained
