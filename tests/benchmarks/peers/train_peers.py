"""A training loop on Accelerate, that works as diffusers' example of unconditional training.

It runs in an environment of its own (requirements-train.txt beside this file; ``make
bench-train-peers``) and speaks JSON lines: one question on stdin, one answer on stdout.

    {"do": "prepare", "unet": {...}, "latents": "latents.npy", "batch": 64, ...}
        makes everything, and does the first steps; versions, parameters, peak memory
    {"do": "steps", "count": 2}
        does some steps; seconds

As in the example: latents in a shuffled ``DataLoader`` of this process, epsilon of DDPM's 1,000
steps, AdamW as torch chooses it, a cosine rate, clipping at 1, an EMA with warm-up, a progress bar,
and the loss logged to TensorBoard in every step.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

PACKAGES = ("accelerate", "diffusers", "torch", "numpy", "tensorboardX")
WARM_UP = 2
TOTAL_STEPS = 100_000
MIXED = {"fp32": "no", "bf16": "bf16"}


class Training:
    """The loop, step by step."""

    def __init__(
        self, unet: dict[str, Any], latents: str, folder: str, batch: int, lr: float,
        precision: str, device: str, threads: int,
    ) -> None:  # fmt: skip
        torch.set_num_threads(threads)
        self.accelerator = Accelerator(
            mixed_precision=MIXED[precision], cpu=device == "cpu",
            log_with="tensorboard", project_dir=folder,
        )  # fmt: skip
        model = UNet2DModel(**unet)
        self.ema = EMAModel(
            model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75,
            model_cls=UNet2DModel, model_config=model.config,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        data = TensorDataset(torch.from_numpy(np.load(latents)))
        loader: Any = DataLoader(data, batch_size=batch, shuffle=True)
        rate = get_scheduler(
            "cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=TOTAL_STEPS
        )
        prepared = self.accelerator.prepare(model, optimizer, loader, rate)
        self.model, self.optimizer, self.loader, self.rate = prepared
        self.ema.to(self.accelerator.device)
        self.accelerator.init_trackers("bench")
        self.noising = DDPMScheduler(num_train_timesteps=1000)
        self.steps = self._steps()

    def _steps(self) -> Iterator[float]:
        """Losses of steps without end."""
        bar = tqdm(total=TOTAL_STEPS, file=open(os.devnull, "w"))  # noqa: SIM115 - till the end
        done = 0
        while True:
            for (clean,) in self.loader:
                with self.accelerator.accumulate(self.model):
                    loss = self._loss(clean)
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                    self.optimizer.step()
                    self.rate.step()
                    self.optimizer.zero_grad()
                if self.accelerator.sync_gradients:
                    self.ema.step(self.model.parameters())
                    bar.update(1)
                    done += 1
                shown = {
                    "loss": loss.detach().item(), "lr": self.rate.get_last_lr()[0], "step": done,
                    "ema_decay": self.ema.cur_decay_value,
                }  # fmt: skip
                bar.set_postfix(**shown)
                self.accelerator.log(shown, step=done)
                yield shown["loss"]

    def _loss(self, clean: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=clean.device)
        most = self.noising.config.num_train_timesteps
        times = torch.randint(0, most, (len(clean),), device=clean.device).long()
        predicted = self.model(self.noising.add_noise(clean, noise, times), times).sample
        return functional.mse_loss(predicted.float(), noise.float())


def with_peak_bytes(work: Callable[[], Any], *, device: str) -> tuple[Any, int]:
    """As in `bench_train_limits`: what ``work`` returns, and the most bytes of tensors it had."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        value = work()
        torch.cuda.synchronize()
        return value, torch.cuda.max_memory_allocated()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        value = work()
    raw = profiled.profiler.kineto_results.events()
    events = sorted(
        (event for event in raw if event.name() == "[memory]"), key=lambda event: event.start_ns()
    )
    return value, max(accumulate((event.nbytes() for event in events), initial=0))


def started(**question: Any) -> Training:
    training = Training(**question)
    for _ in range(WARM_UP):
        next(training.steps)
    return training


def timed(training: Training, count: int) -> dict[str, float]:
    """Seconds of some steps; ``.item()`` of every loss waits for a GPU."""
    begun = time.perf_counter()
    for _ in range(count):
        next(training.steps)
    return {"seconds": time.perf_counter() - begun}


def main() -> None:
    # libraries print to stdout; answers keep the real one to themselves
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    training: Training | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if question.pop("do") == "prepare":
            start = partial(started, **question)
            training, peak_bytes = with_peak_bytes(start, device=question["device"])
            answer: dict[str, Any] = {
                "peak_bytes": peak_bytes,
                "parameters": sum(p.numel() for p in training.model.parameters()),
                "versions": {name: metadata.version(name) for name in PACKAGES},
            }
        else:
            assert training is not None
            answer = timed(training, **question)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
