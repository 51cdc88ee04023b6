"""Checkpoints of a run: Orbax directories with the resolved config inside; the best and the last are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from vacsr_jax.training.state import TrainState

FOLDER = "checkpoints"
SELECTION_METRIC = "rsum"  # on the validation labels: what a user without known truth has


class Checkpoints:
    """The checkpoints under `workdir/checkpoints`, each with `params`, `optimizer`, and `run` (config and model).

    `params` are those that are judged and loaded; where they are an average, `optimizer` holds the ones in training.

    A checkpoint is written to a temporary directory and renamed, so a killed run never leaves half of one behind.
    """

    def __init__(self, workdir: str | Path, *, read_only: bool = False):
        keep = [LatestN(n=1), BestN(get_metric_fn=_selected, n=1)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else AnyPreservationPolicy(keep),
            best_fn=_selected,
            best_mode="max",
            read_only=read_only,
        )
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        }
        self.folder = Path(workdir).absolute() / FOLDER
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, state: TrainState, description: dict[str, Any], metrics: dict[str, float]) -> None:
        items = {
            "params": ocp.args.StandardSave(state.judged_params),
            "optimizer": ocp.args.StandardSave(_rest(state)),
            "run": ocp.args.JsonSave(description),
        }
        self._manager.save(int(state.step), args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def last_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        return self._manager.best_step()

    def description(self, step: int) -> dict[str, Any]:
        """What `save` was given: `config` and `model`."""
        return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, shaped, typed and placed as the arrays of `like`, wherever it was saved."""
        args = {"params": _restore_like(like.params), "optimizer": _restore_like(_rest(like))}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        judged, rest = restored["params"], restored["optimizer"]
        average = None if like.average is None else judged
        return TrainState(rest["step"], rest.get("params", judged), rest["state"], average)

    def restore_params(self, step: int, like: Any) -> Any:
        """The parameters alone; `like` as in `restore`."""
        return self._manager.restore(step, args=ocp.args.Composite(params=_restore_like(like)))["params"]

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The path and shape of each saved parameter."""
        tree = self._manager.item_metadata(step)["params"].tree
        return {name: tuple(leaf.shape) for name, leaf in flatten_dict(tree, sep="/").items()}

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def _rest(state: TrainState) -> dict[str, Any]:
    rest = {"step": state.step, "state": state.opt_state}
    return rest if state.average is None else {**rest, "params": state.params}


def _selected(metrics: dict[str, float]) -> float:
    return metrics[SELECTION_METRIC]


def _restore_like(tree: Any) -> ocp.args.StandardRestore:
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))


def config_to_dict(config: ConfigDict) -> dict[str, Any]:
    """Plain JSON values; `config_from_dict` is its inverse."""
    return json.loads(config.to_json())


def config_from_dict(values: dict[str, Any]) -> ConfigDict:
    def convert(value):
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(convert(values)).lock()


def config_differences(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> list[str]:
    """`field: saved x, given y` for each field in which two configs (plain dicts) differ."""
    found = []
    for name in sorted(saved.keys() | given.keys()):
        a, b = saved.get(name, "(absent)"), given.get(name, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            found += config_differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: saved {a}, given {b}")
    return found
