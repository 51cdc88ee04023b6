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
    """The path of every leaf, such as towers/vision/transformer/block_0/mlp_in/kernel, in the tree's order."""
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)]


def map_paths(function, params: Any) -> Any:
    """`function(path)` of each leaf, as a tree like params."""
    return jax.tree.unflatten(jax.tree.structure(params), [function(path) for path in paths(params)])


def depths(params: Any) -> dict[str, int]:
    """How many blocks each tower has."""
    found = [match.groups() for match in map(BLOCK.match, paths(params)) if match]
    return {tower: 1 + max(int(block) for name, block in found if name == tower) for tower in {t for t, _ in found}}


def learning_rates(params: Any, optim: ConfigDict) -> Any:
    """What the learning rate of each leaf is multiplied by.

    Block k of a tower's 0 .. depth - 1: the tower's rate times layer_decay^(depth - k), with its real depth; the rest
    of a tower: its rate; an uncertainty branch's block counts as a top block; everything else: 1.
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
    """TRAIN, LATE or FROZEN for each leaf.

    FROZEN: what a pattern of optim.frozen names (fnmatch on paths); with optim.image_blocks (text_blocks) = n not
    negative, everything of that tower, its projection included, but its first n blocks. LATE: the image tower, if
    optim.image_frozen_steps.

    Raises:
      ValueError: for a pattern that names nothing, more blocks than there are, or if nothing is left to train.
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
    """The same params, through which no gradient reaches FROZEN leaves, nor LATE ones unless `late`."""

    def hold(leaf, label):
        if label == TRAIN:
            return leaf
        stopped = jax.lax.stop_gradient(leaf)
        return stopped if label == FROZEN else jnp.where(late, leaf, stopped)

    return jax.tree.map(hold, params, labels)
