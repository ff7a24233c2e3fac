"""What each term of the autoencoder's loss costs: forward and backward passes, interleaved.

``python -m tests.benchmarks.autoencoder_terms [rounds]`` takes the network, crops and batch of
``configs/autoencoder/real.yaml`` and prints the median time of a step without the optimizer, and
its ratio to the loss without optional terms.
"""

import statistics
import sys
import time

import torch

from histodiff.config import find_config, load_config, parse_config
from histodiff.models.autoencoder import create_network, downsampling, latent_channels
from histodiff.pretraining.autoencoder.config import AutoencoderTraining
from histodiff.pretraining.autoencoder.objective import Objective
from histodiff.workflows.autoencoder import AutoencoderConfig

TERMS = {
    "none": {},
    "perceptual, random features": {"perceptual": {"weight": 1.0}},
    "adversarial, width 16": {"adversarial": {"weight": 0.5, "start_images": 0, "width": 16}},
    "adversarial, width 64": {"adversarial": {"weight": 0.5, "start_images": 0, "width": 64}},
}


def main() -> None:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    config = load_config(AutoencoderConfig, find_config("autoencoder/real.yaml"))
    torch.set_num_threads(config.threads)
    values = config.mode.model_dump(mode="json", exclude={"type"})
    objectives = {}
    for name, terms in TERMS.items():
        training = parse_config(
            AutoencoderTraining, {**values, "loss": {**values["loss"], **terms}}, source=name
        )
        network = create_network(training.architecture)
        objectives[name] = Objective(network, training, num_classes=0, seed=0)
    side = training.crop_px
    latent = side // downsampling(network)
    shape = (training.train.batch, latent_channels(network), latent, latent)
    clean = torch.rand(training.train.batch, 3, side, side) * 2 - 1
    clean = clean.to(memory_format=torch.channels_last)
    label = torch.zeros(training.train.batch, dtype=torch.int64)
    seconds: dict[str, list[float]] = {name: [] for name in TERMS}
    for _ in range(rounds + 1):
        for name, objective in objectives.items():
            started = time.perf_counter()
            objective(clean, torch.randn(shape), label, images_seen=0).total.backward()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:30} {median * 1000:8.1f} ms  {median / medians['none']:.2f}")


if __name__ == "__main__":
    main()
