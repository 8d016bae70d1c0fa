"""The breast cancer table of scikit-learn: 569 tumors, 30 measurements, no download."""

from __future__ import annotations

import torch

from src.kindling.data import DataModule, Samples


class BreastCancer(DataModule):
    """Thirty measurements of cell nuclei, and whether the tumour is malignant or benign.

    Source: https://archive.ics.uci.edu/dataset/17, as `sklearn.datasets.load_breast_cancer`.
    """

    def load(self) -> Samples:
        from sklearn.datasets import load_breast_cancer

        table = load_breast_cancer()
        return Samples(
            x=torch.from_numpy(table.data).float(),
            y=torch.from_numpy(table.target).long(),
            classes=tuple(str(name) for name in table.target_names),
            columns=tuple(str(name) for name in table.feature_names),
            target="diagnosis",
        )
