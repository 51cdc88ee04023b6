"""Which parameters learn, when, and how fast: groups by path and by depth in the towers."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

TRAIN, LATE, FROZEN = "train", "late", "frozen"  # LATE: the image tower, frozen for the first steps
BLOCK = re.compile(r"towers/(vision|text)/transformer/block_(\d+)/")


def paths(params: Any) -> list[str]:
    """Returns the path of every leaf, such as towers/vision/transformer/block_0/mlp_in/kernel, in the tree's order."""
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]


def map_paths(function, params: Any) -> Any:
    """Returns a tree like params that holds `function(path)` for each leaf."""
    return jax.tree.unflatten(jax.tree.structure(params), [function(path) for path in paths(params)])


def depths(params: Any) -> dict[str, int]:
    """Returns the number of blocks of each tower."""
    found = [match.groups() for match in map(BLOCK.match, paths(params)) if match]
    return {tower: 1 + max(int(block) for name, block in found if name == tower) for tower in {t for t, _ in found}}


def learning_rates(params: Any, optim: ConfigDict) -> Any:
    """Returns the factor of each leaf's learning rate.

    Block k of 0 .. depth - 1 of a tower has the tower's rate times layer_decay^(depth - k), with the tower's own depth.
    The rest of a tower has the tower's rate. The block of an uncertainty branch counts as a top block. Everything else
    has 1.
    """
    rate = {"vision": optim.image_lr, "text": optim.text_lr}
    depth = depths(params)

    def of(path: str) -> float:
        block = BLOCK.match(path)
        if block:
            tower, number = block[1], int(block[2])
            return rate[tower] * optim.layer_decay ** (depth[tower] - number)
        tower = re.match(r"towers/(vision|text)/", path)
        if tower:
            return rate[tower[1]]
        branch = re.match(r"(image|text)_spread/block/", path)
        return rate["vision" if branch[1] == "image" else "text"] * optim.layer_decay if branch else 1.0

    return map_paths(of, params)


def labels(params: Any, optim: ConfigDict) -> Any:
    """Returns TRAIN, LATE or FROZEN for each leaf.

    FROZEN: leaves that match a pattern of optim.frozen (fnmatch on paths). If optim.image_blocks (or text_blocks) is
    n >= 0, also that tower and its projection, except for its first n blocks. LATE: the image tower, if
    optim.image_frozen_steps is not 0.

    Raises:
      ValueError: for a pattern that matches nothing, more blocks than the tower has, or if nothing is left to train.
    """
    for pattern in optim.frozen:
        if not fnmatch.filter(paths(params), pattern):
            raise ValueError(
                f"optim.frozen: {pattern!r} matches no parameter; paths look like {', '.join(paths(params)[:3])}"
            )
    depth = depths(params)
    first = {"vision": optim.image_blocks, "text": optim.text_blocks}
    for tower, field in (("vision", "image_blocks"), ("text", "text_blocks")):
        if first[tower] > depth.get(tower, 0):
            raise ValueError(f"optim.{field}: got {first[tower]}, the {tower} tower has {depth.get(tower, 0)} blocks")

    def of(path: str) -> str:
        if any(fnmatch.fnmatch(path, pattern) for pattern in optim.frozen):
            return FROZEN
        if optim.get("lora") and path.startswith("towers/"):  # the adapters learn in their place
            return FROZEN
        tower = re.match(r"towers/(vision|text)(_projection)?/", path)
        if tower and first[tower[1]] >= 0:
            block = BLOCK.match(path)
            if not block or int(block[2]) >= first[tower[1]]:
                return FROZEN
        return LATE if optim.image_frozen_steps and path.startswith("towers/vision/") else TRAIN

    found = map_paths(of, params)
    if set(jax.tree.leaves(found)) == {FROZEN}:
        raise ValueError("optim.frozen, optim.image_blocks, optim.text_blocks: nothing is left to train")
    return found


def hold_frozen(params: Any, labels: Any, late: jax.Array) -> Any:
    """Returns params through which no gradient reaches FROZEN leaves, nor LATE leaves unless `late`."""

    def hold(leaf, label):
        if label == TRAIN:
            return leaf
        stopped = jax.lax.stop_gradient(leaf)
        return stopped if label == FROZEN else jnp.where(late, leaf, stopped)

    return jax.tree.map(hold, params, labels)
