"""The models that the tables of scenes judge: one training run for each loss, noise, protocol and seed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from experiments.scenes.runs import Task, result_file, run_one
from vacsr_jax.pretrained import Pretrained

STEPS = 1200
LOSSES = {
    "propensity": {"method": "propensity"},
    "sigmoid": {"method": "sigmoid"},
    "infonce": {"method": "infonce"},
}
NOISE = (0.2, 0.5, 0.0)
PROTOCOLS = ("caption", "image", "pcmepp")


class Cell(NamedTuple):
    """What a table averages seeds of."""

    loss: str
    noise: float
    protocol: str = "caption"

    def task(self, seed: int) -> Task:
        """The run of a seed, under a name that states what it changes."""
        fields = LOSSES[self.loss] | {
            "train.steps": STEPS,
            "data.noise": self.noise,
            "data.noise_protocol": self.protocol,
            "seed": seed,
        }
        return Task(f"{self.loss}-noise{self.noise}-{self.protocol}-seed{seed}", fields)


# In the order of what a reader wants first.
CELLS = [
    *(Cell(loss, noise) for noise in NOISE for loss in LOSSES),
    *(Cell("propensity", noise, protocol) for protocol in PROTOCOLS[1:] for noise in (0.2, 0.5)),
]


def train_all(out: Path, seeds: int) -> None:
    """Trains every cell, seed after seed; a run that has a result is not repeated."""
    for seed in range(seeds):
        for cell in CELLS:
            train_one(cell.task(seed), out)


def train_one(task: Task, out: Path) -> None:
    """Trains a run and keeps its model, unless it has a result."""
    if not result_file(out, task.name).exists():
        run_one(task, out, keep)
        print(task.name, flush=True)


def keep(model: Pretrained, config, folder: Path) -> dict:
    """Saves the model as an export, and returns the share of wrong labels that it found."""
    model.save(folder)
    return {"noise_rate": model.noise_rate}
