"""Finds bright squares in noise; batches are lists of images and lists of targets, as
torchvision's detection models take them."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Squares(Dataset):
    def __init__(self, length, seed):
        self.length, self.seed = length, seed

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(self.seed * 100_000 + i)
        height, width = torch.randint(20, 33, (2,), generator=g).tolist()
        image = 0.1 * torch.rand(1, height, width, generator=g)
        boxes = []
        for _ in range(int(torch.randint(1, 4, (), generator=g))):
            x, y = torch.randint(0, 14, (2,), generator=g).tolist()
            image[:, y : y + 6, x : x + 6] = 1.0
            boxes.append([x, y, x + 6, y + 6])
        return {
            "image": image,
            "target": {
                "boxes": torch.tensor(boxes).float(),
                "labels": torch.ones(len(boxes), dtype=torch.int64),
                "image_id": i,
            },
        }


def collate(samples):
    return samples  # images differ in size: a list of dicts


class SquaresData(pl.LightningDataModule):
    def __init__(self, n_train=160, n_val=40, batch_size=8):
        super().__init__()
        self.n_train, self.n_val, self.batch_size = n_train, n_val, batch_size

    def train_dataloader(self):
        data = Squares(self.n_train, seed=1)
        return DataLoader(data, self.batch_size, shuffle=True, collate_fn=collate)

    def val_dataloader(self):
        return DataLoader(Squares(self.n_val, seed=2), self.batch_size, collate_fn=collate)

    def test_dataloader(self):
        return DataLoader(Squares(self.n_val, seed=3), self.batch_size, collate_fn=collate)


class CenterDetector(pl.LightningModule):
    """A heat map of box centers, at half the resolution."""

    def __init__(self, width=8, lr=3e-3):
        super().__init__()
        self.lr = lr
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()
        )
        self.heat = nn.Conv2d(width, 1, 1)

    def forward(self, images, targets=None):
        maps = [self.heat(self.body(image[None]))[0, 0] for image in images]
        if targets is None:
            return [{"scores": heat.flatten().sigmoid().topk(3).values} for heat in maps]
        losses = []
        for heat, target in zip(maps, targets, strict=True):
            centers = target["boxes"].view(-1, 2, 2).mean(1).div(2).long()
            truth = torch.zeros_like(heat)
            truth[centers[:, 1], centers[:, 0]] = 1
            weight = torch.tensor(20.0, device=heat.device)
            losses.append(
                nn.functional.binary_cross_entropy_with_logits(heat, truth, pos_weight=weight)
            )
        return {"loss_heat": torch.stack(losses).mean()}

    def compute_losses(self, batch):
        images = [sample["image"] for sample in batch]
        return self(images, [sample["target"] for sample in batch])

    def training_step(self, batch, batch_idx):
        losses = self.compute_losses(batch)
        loss = sum(losses.values())
        self.log_dict({f"train/{k}": v for k, v in losses.items()}, batch_size=len(batch))
        return loss

    def validation_step(self, batch, batch_idx):
        loss = sum(self.compute_losses(batch).values())
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)

    def test_step(self, batch, batch_idx):
        loss = sum(self.compute_losses(batch).values())
        self.log("test/loss", loss, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)
