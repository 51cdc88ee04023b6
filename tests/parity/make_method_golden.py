"""Writes golden/methods.json, the losses, gradients and scores of every method, and golden/format2, saved models.

    python -m tests.parity.make_method_golden

Run before a change that must leave every number alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import optax

from tests.parity import methods
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.image_text import describe
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.training.checkpoint import Checkpoints, Selection, config_to_dict
from vacsr_jax.training.state import init_state
from vacsr_jax.workdir import CONFIG

GOLDEN = Path(__file__).parent / "golden"
SAVED = GOLDEN / "format2"
SAVED_CASES = (
    "sigmoid",
    "pcmepp",
    "pcmepp, GPO",
    "conjunction",
    "deterministic",
    "vacsr",
    "vacsr, hidden decoder",
    "propensity",
    "propensity, conjunction",
    "propensity, deterministic",
    "propensity, vacsr",
)
WORKDIR = "vacsr"  # saved as a workdir; the others as exports


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # as the test does, which would take minutes without
    found = {
        name: methods.compute(name) for name in methods.CASES if methods.OUTSIDE not in methods.CASES[name].values()
    }
    saved = {name: found[name]["parameters"] for name in SAVED_CASES}
    values = {"machine": machine(), "cases": found, "saved": saved}
    (GOLDEN / "methods.json").write_text(json.dumps(values, indent=1) + "\n")
    for name in methods.CASES:
        if name in SAVED_CASES:
            save(name)


def machine() -> dict[str, str]:
    """What the last bit of a sum depends on."""
    cpu = Path("/proc/cpuinfo")
    flags = [line for line in cpu.read_text().splitlines() if line.startswith("flags")] if cpu.exists() else []
    return {"jax": jax.__version__, "cpu": hashlib.sha256("".join(flags[:1]).encode()).hexdigest()[:16]}


def folder_of(name: str) -> Path:
    """Where the export of a case lies."""
    return SAVED / name.replace(", ", "-").replace(" ", "_")


def save(name: str) -> None:
    config, model = methods.model_of(name)
    params = methods.params_of(name)
    tokenizer = methods.tokenizer()
    Pretrained(model, params, tokenizer, config_to_dict(config), 3).save(folder_of(name))
    if name == WORKDIR:
        workdir = SAVED / "workdir"
        shutil.rmtree(workdir, ignore_errors=True)
        checkpoints = Checkpoints(workdir)
        state = init_state(jax.tree.map(jnp.asarray, params), optax.sgd(0.1)).replace(step=jnp.int32(3))
        description = {"config": config_to_dict(config), "model": describe(model)}
        checkpoints.save(state, description, Selection("validation/rsum", 1.0))
        checkpoints.close()
        tokenizer.save(workdir / "tokenizer")
        write_text(workdir / CONFIG, to_json(config_to_dict(config)))


if __name__ == "__main__":
    main()
