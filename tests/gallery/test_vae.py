"""The variational autoencoder: its ELBO, its baselines, its shapes, and that it trains."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Normal, kl

from src.gallery.vae import VAE, DigitPixels, kl_divergence, pca_error
from tests.conftest import train


def test_elbo_equals_that_of_distributions() -> None:
    torch.manual_seed(0)
    task, x = VAE(latent=3, hidden=8), torch.rand(5, 1, 8, 8)
    mean, log_var = task.encode(x)
    torch.manual_seed(1)
    z = mean + (log_var / 2).exp() * torch.randn_like(mean)
    pixels = Normal(task.decoder(z), task.log_sigma.exp()).log_prob(x)
    prior = Normal(torch.zeros(5, 3), torch.ones(5, 3))
    divergence = kl.kl_divergence(Normal(mean, (log_var / 2).exp()), prior)
    torch.manual_seed(1)
    nll, of_latents = task.elbo(x)
    torch.testing.assert_close(nll, -pixels.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(of_latents, divergence.sum(dim=1))


def test_kl_divergence_by_hand() -> None:
    mean, log_var = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    # 0.5 (1 + 1 - 1 - 0) + 0.5 (4 + e - 1 - 1)
    assert kl_divergence(mean, log_var).tolist() == pytest.approx([0.0, 0.5 + 2.3591409])


def test_loss_is_negative_elbo_with_beta_on_kl() -> None:
    torch.manual_seed(0)
    task, x = VAE(latent=2, hidden=8, beta=0.25), torch.rand(5, 1, 8, 8)
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    torch.manual_seed(1)
    nll, of_latents = task.elbo(x)
    torch.manual_seed(1)
    loss = task.training_step((x, torch.zeros(5)), 0)
    assert loss.item() == pytest.approx((nll + 0.25 * of_latents).mean().item())


def test_pca_error_equals_that_of_scikit_learn() -> None:
    data = DigitPixels(split=(300, 50, 50))
    data.setup()
    train_images, test_images = data.images("train"), data.images("test")
    flat = test_images.flatten(1).double().numpy()
    pca = PCA(2).fit(train_images.flatten(1).double().numpy())
    expected = ((pca.inverse_transform(pca.transform(flat)) - flat) ** 2).mean()
    error = pca_error(train_images, test_images, 2)
    assert error.item() == pytest.approx(expected, rel=1e-4)
    of_mean = (test_images - train_images.mean(dim=0)).square().mean()
    assert pca_error(train_images, test_images, 0).item() == pytest.approx(of_mean.item())


def test_pixels_are_from_0_to_1() -> None:
    data = DigitPixels()
    data.setup()
    x, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    torch.testing.assert_close(x, data.images("val")[: len(x)])


def test_predict_step_columns() -> None:
    columns = VAE(latent=3, hidden=8).predict_step((torch.rand(5, 1, 8, 8), torch.zeros(5)), 0)
    assert {name: tuple(value.shape) for name, value in columns.items()} == {
        "image": (5, 1, 8, 8),
        "reconstruction": (5, 1, 8, 8),
        "latent": (5, 3),
        "digit": (5,),
        "mse": (5,),
    }


def test_vae_trains() -> None:
    result = train("vae")
    assert {"val/loss", "test/mse", "test/kl", "test/mean_mse", "test/pca_mse"} <= {*result.metrics}
