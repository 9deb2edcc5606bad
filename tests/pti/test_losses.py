"""Noising, targets and weights against diffusers' schedulers and formulas."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from clipgeom.errors import ConfigError
from pti.losses import add_noise, denoising_loss, min_snr_weights, offset_noise, prediction_target


@pytest.fixture(params=[False, True])
def scheduler(request):
    return DDPMScheduler(
        num_train_timesteps=100, beta_schedule="scaled_linear", beta_end=0.12, rescale_betas_zero_snr=request.param
    )


def test_noising_and_velocities_are_diffusers_own(scheduler):
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn((6, 4, 3, 3), generator=generator) for _ in range(2))
    times = torch.tensor([0, 1, 50, 98, 99, 10])
    alphas = scheduler.alphas_cumprod
    torch.testing.assert_close(add_noise(alphas, clean, noise, times), scheduler.add_noise(clean, noise, times))
    torch.testing.assert_close(
        prediction_target("v_prediction", alphas, clean, noise, times), scheduler.get_velocity(clean, noise, times)
    )
    assert prediction_target("epsilon", alphas, clean, noise, times) is noise
    with pytest.raises(ConfigError, match="epsilon or v_prediction"):
        prediction_target("sample", alphas, clean, noise, times)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights(scheduler, prediction):
    times = torch.arange(99)  # the last one of a schedule that ends in noise has SNR 0
    snr = compute_snr(scheduler, times).double()
    divisor = snr if prediction == "epsilon" else snr + 1
    weights = min_snr_weights(prediction, scheduler.alphas_cumprod, torch.arange(100), 5.0)
    torch.testing.assert_close(weights[:99].double(), snr.clamp(max=5.0) / divisor, rtol=1e-4, atol=1e-6)
    assert torch.isfinite(weights).all()
    if scheduler.config.rescale_betas_zero_snr:
        assert weights[99] == (1.0 if prediction == "epsilon" else 0.0)


def test_loss_is_a_plain_loop_over_pictures():
    rng = np.random.default_rng(0)
    said, target = rng.normal(size=(3, 2, 4, 4)), rng.normal(size=(3, 2, 4, 4))
    weights = rng.random(3)
    by_hand = sum(w * ((a - b) ** 2).mean() for a, b, w in zip(said, target, weights, strict=True)) / 3
    tensors = [torch.from_numpy(x) for x in (said, target, weights)]
    assert float(denoising_loss(*tensors)) == pytest.approx(by_hand, rel=1e-6)


def test_noise_offset_is_one_number_a_channel():
    noise, offset = torch.zeros(2, 4, 3, 3), torch.randn(2, 4, 1, 1)
    assert offset_noise(noise, offset, 0.0) is noise
    torch.testing.assert_close(offset_noise(noise, offset, 0.1), (0.1 * offset).expand(2, 4, 3, 3))
