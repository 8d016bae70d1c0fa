"""The diabetes table that comes with scikit-learn: 442 patients, 10 measurements, no download."""

from __future__ import annotations

import torch

from src.kindling.data import DataModule, Samples


class Diabetes(DataModule):
    """Ten measurements in their own units, and the disease progression a year later (25 to 346).

    Source: Efron et al., Least Angle Regression (2004), as
    `sklearn.datasets.load_diabetes(scaled=False)`.
    """

    def load(self) -> Samples:
        from sklearn.datasets import load_diabetes

        table = load_diabetes(scaled=False)
        return Samples(
            x=torch.from_numpy(table.data).float(),
            y=torch.from_numpy(table.target).float().unsqueeze(1),
            columns=tuple(table.feature_names),
            target="disease progression after one year (points)",
        )
