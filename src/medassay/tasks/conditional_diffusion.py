"""The conditional diffusion model's training: a net that takes noise off images, and images drawn from noise by it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import NonNegative, Positive, PositiveInt, Range
from medassay.data.symmetries import apply_symmetries, draw_symmetries
from medassay.nets.diffusion import SYMMETRIES, DenoisingUNet
from medassay.tasks.edm import (
    LEVELS,
    SOLVERS,
    Solver,
    denoising_loss,
    make_levels,
    make_sigmas,
    measure_pixels,
    precondition,
)
from medassay.tasks.ema import EMA, compute_decay_by_images
from medassay.tasks.generator import Batch, ConditionalGenerator
from medassay.tasks.optim import OptimizerFactory, SchedulerFactory, adam, configure_optimizer
from medassay.tasks.steps import EpochMeans, check_finite, ends_epoch


class ConditionalDiffusion(ConditionalGenerator):
    """Trains ``net`` to take noise of any strength off images, and draws images by taking noise off noise.

    Karras et al. 2022 (arXiv:2206.00364), see :mod:`medassay.tasks.edm`. Samples come from an average of the weights. Logs
    once per epoch ``train/loss``, over images seen, and ``val/loss``, of the averaged weights, at the same noise levels with
    the same noise every time: both are 1 for a net that has learnt nothing.

    Args:
        net: The net behind the preconditioning.
        optimizer: Factory of the optimizer; Adam with 1e-3 where none is given.
        scheduler: Factory of the learning-rate schedule; no schedule where none is given.
        p_mean: Mean of ln(sigma) in training.
        p_std: Standard deviation of ln(sigma) in training.
        label_dropout: Share of the training images whose class is not told; guidance needs some.
        symmetries: Whether training images are turned and mirrored, all eight ways, and the net is told how: samples are not.
        ema_half_life: Number of images after which weights count half in the average.
        ema_ramp_up: Largest half-life as a share of the images seen so far.
        solver: How samples get from one noise level to the next: ``heun``, 2 steps - 1 calls of the net an image, or
            ``multistep``, one call a step.
        steps: Number of noise levels in sampling.
        sigma_min: Smallest noise level of sampling, in units of images in [-1, 1].
        sigma_max: Largest noise level of sampling, where it starts.
        rho: How much denser the noise levels are at the end of sampling.
        guidance: How far to go beyond what the class asks for, away from images of any class: 0 is plain conditional sampling;
            above, samples are more typical and less varied, for twice the time (Ho & Salimans 2022, arXiv:2207.12598, w).
        grid_rows: Number of images per class of the fixed grid that shows progress.

    Raises:
        ConfigError: Guidance without label dropout, or noise levels in the wrong order.
    """

    sampling_settings: ClassVar[tuple[str, ...]] = ("solver", "steps", "sigma_min", "sigma_max", "rho", "guidance")

    net: DenoisingUNet
    grid_noise: Tensor
    data_mean: Tensor
    sigma_data: Tensor
    levels: Tensor

    def __init__(
        self,
        net: DenoisingUNet,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        p_mean: float = -1.2,
        p_std: Positive = 1.2,
        label_dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1,
        symmetries: bool = True,
        ema_half_life: PositiveInt = 50_000,
        ema_ramp_up: Annotated[float, Range(gt=0, le=1)] = 0.05,
        solver: Solver = "heun",
        steps: PositiveInt = 8,
        sigma_min: Positive = 0.002,
        sigma_max: Positive = 80.0,
        rho: Positive = 7.0,
        guidance: NonNegative = 0.0,
        grid_rows: PositiveInt = 8,
    ) -> None:
        if guidance > 0 and label_dropout == 0:
            raise ConfigError(
                f"model.guidance={guidance:g} needs a net that also knows images of no class: train with "
                "model.label_dropout=0.1, or use model.guidance=0"
            )
        if sigma_min >= sigma_max:
            raise ConfigError(
                f"model.sigma_min={sigma_min:g}: expected a number below model.sigma_max={sigma_max:g}, e.g. 0.002 below 80"
            )
        channels, height, width = net.image_shape
        super().__init__(net, channels * height * width, "grid_noise", grid_rows)
        self.ema = EMA(net)
        self.ema_half_life, self.ema_ramp_up = ema_half_life, ema_ramp_up
        self.p_mean, self.p_std = p_mean, p_std
        self.label_dropout, self.symmetries, self.guidance = label_dropout, symmetries, guidance
        self.solver = solver
        self.sigmas = make_sigmas(steps, sigma_min, sigma_max, rho)
        self.images_seen = 0  # up to the last epoch's end, by all processes
        self._images_averaged = 0  # since then, by all processes
        self._images_here = 0  # since the average's last step, by this process
        self._optimizer = optimizer or adam()
        self._scheduler = scheduler
        self._means, self._val_means = EpochMeans(), EpochMeans()
        self.register_buffer("data_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("sigma_data", torch.tensor(0.5))
        self.register_buffer("levels", make_levels(p_mean, p_std).float(), persistent=False)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            mean, deviation = measure_pixels(data.splits.train.images)
            if deviation == 0:
                raise DataError(
                    f"the training images of data={data.name} are all of one colour: there is nothing to generate; look at the "
                    "file with scripts/check_data.py"
                )
            self.data_mean.copy_(mean[:, None, None])
            self.sigma_data.fill_(deviation)

    # --- the denoiser ---

    def centre(self, images: Tensor) -> Tensor:
        """``images`` in [0, 1] as the net's y: of mean 0 per channel and standard deviation ``sigma_data``."""
        return 2 * images - 1 - self.data_mean

    def denoise(self, net: nn.Module, noisy: Tensor, sigma: Tensor, classes: Tensor, symmetry: Tensor) -> Tensor:
        """D(x; sigma) of ``noisy (B, C, H, W)`` for ``sigma (B or 1, 1, 1, 1)``, one-hot ``classes`` and symmetry bits."""
        c_skip, c_out, c_in, c_noise = precondition(sigma, self.sigma_data)
        answer: Tensor = net(c_in * noisy, c_noise.flatten(), classes, symmetry)
        return c_skip * noisy + c_out * answer.to(noisy.dtype)  # bfloat16 is too coarse for the sum

    # --- sampling ---

    def draw(self, latent: Tensor, labels: Tensor) -> Tensor:
        if len(latent) == 0:  # torch unshuffles no pixels of no images
            return latent.view(0, *self.image_shape)
        noise = latent.view(len(latent), *self.image_shape) * self.sigmas[0]
        classes = F.one_hot(labels, self.num_classes).to(latent.dtype)
        untouched = latent.new_zeros(len(labels), SYMMETRIES)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            level = x.new_full((1, 1, 1, 1), sigma)
            denoised = self.denoise(self.ema, x, level, classes, untouched)
            if self.guidance == 0:
                return denoised
            of_any_class = self.denoise(self.ema, x, level, torch.zeros_like(classes), untouched)
            return denoised + self.guidance * (denoised - of_any_class)

        return (SOLVERS[self.solver](denoise, noise, self.sigmas) + self.data_mean + 1) / 2

    def finish(self, drawn: Tensor) -> Tensor:
        return drawn.clamp(0, 1)

    # --- training ---

    def compute_loss(self, batch: Batch) -> Tensor:
        """The training loss of a batch, a scalar; every image has noise, a noise level and a symmetry of its own."""
        images, labels = batch
        n = len(images)
        symmetry = draw_symmetries(n, self.device) if self.symmetries else labels.new_zeros(n, SYMMETRIES)
        clean = self.centre(apply_symmetries(images, symmetry))
        sigma = (self.p_mean + self.p_std * torch.randn(n, 1, 1, 1, device=self.device, dtype=clean.dtype)).exp()
        told = torch.rand(n, 1, device=self.device) >= self.label_dropout
        classes = (F.one_hot(labels, self.num_classes) * told).to(clean.dtype)
        noisy = clean + sigma * torch.randn_like(clean)
        denoised = self.denoise(self.net, noisy, sigma, classes, symmetry.to(clean.dtype))
        return denoising_loss(denoised, clean, sigma, self.sigma_data)

    def on_train_epoch_start(self) -> None:
        self._images_averaged = self._images_here = 0  # of an epoch that was broken off

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch)
        check_finite(self, batch_idx, loss=loss)
        self._images_here += len(batch[0])
        self._means.add(batch_idx, len(batch[0]), {"train/loss": loss})
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)  # and not after each batch: several batches may share one step
        step = self._images_here
        if self.trainer.world_size > 1:  # the last batches may differ in size, the averages may not
            step = int(self.trainer.strategy.reduce(torch.tensor(step, device=self.device), reduce_op="sum"))
        seen = self.images_seen + self._images_averaged
        self.ema.update(self.net, compute_decay_by_images(seen, step, self.ema_half_life, self.ema_ramp_up))
        self._images_averaged, self._images_here = self._images_averaged + step, 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if ends_epoch(self):
            self._means.log(self, prog_bar=["train/loss"])
            self.images_seen += self._images_averaged
            self._images_averaged = 0

    def on_train_epoch_end(self) -> None:
        self._log_images_seen()

    def _log_images_seen(self) -> None:
        """Makes the images seen the x axis of what is logged at the end of an epoch or of a validation."""
        self.log("step", float(self.images_seen), sync_dist=True)  # the name that Lightning takes for it

    def configure_optimizers(self) -> Any:
        return configure_optimizer(self, self._optimizer, self._scheduler)

    # --- validation ---

    def on_validation_epoch_start(self) -> None:
        self._val_rng = torch.Generator().manual_seed(0)  # on the CPU: the same noise for every device
        self._val_position = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        n, clean = len(images), self.centre(images)
        places = torch.arange(self._val_position, self._val_position + n, device=self.device) % LEVELS
        self._val_position += n
        sigma = self.levels[places].to(clean.dtype)[:, None, None, None]
        noise = torch.randn(clean.shape, generator=self._val_rng).to(clean)
        classes = F.one_hot(labels, self.num_classes).to(clean.dtype)
        denoised = self.denoise(self.ema, clean + sigma * noise, sigma, classes, clean.new_zeros(n, SYMMETRIES))
        self._val_means.add(batch_idx, n, {"val/loss": denoising_loss(denoised, clean, sigma, self.sigma_data)})

    def on_validation_epoch_end(self) -> None:
        self._val_means.log(self)
        self._log_images_seen()

    # --- checkpoints ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen
        # weights that are equal draw other images by other settings: files, by which caches tell them apart, differ, too
        checkpoint["sampling"] = {"solver": self.solver, "sigmas": self.sigmas, "guidance": self.guidance}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
