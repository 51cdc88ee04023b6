"""Checkpoints of a run: Orbax directories with config and checksums inside; the best and the last two are kept."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from vacsr_jax.training.checksums import find_damage, set_damaged_aside, write_checksums
from vacsr_jax.training.multihost import on_first_process
from vacsr_jax.training.state import TrainState

FOLDER = "checkpoints"
SELECTION_METRIC = "rsum"  # on the validation labels: what a user without known truth has


class Checkpoints:
    """The checkpoints under `workdir/checkpoints`, each with `params`, `optimizer`, and `run` (config and model).

    `params` are those that are judged and loaded; where they are an average, `optimizer` holds the ones in training.

    A checkpoint is written to a temporary directory and renamed, so a killed run never leaves half of one behind; it
    holds the checksums of its files. The last two are kept, as the last may be the best, and damaged: to train on
    (not `read_only`), those that are damaged are moved out of the way, with a warning.

    Raises:
      ValueError: to train on, if there are checkpoints and all of them are damaged, or the path has a character that
        Orbax takes for a pattern.
    """

    def __init__(self, workdir: str | Path, *, read_only: bool = False):
        self.folder = Path(workdir).absolute() / FOLDER
        if not read_only:
            if pattern := re.search(r"[*?\[]", str(self.folder)):
                raise ValueError(
                    f"{self.folder}: got {pattern[0]!r} in the path, which leaves Orbax's checkpoints unreadable; "
                    "give another --workdir"
                )
            on_first_process(lambda: set_damaged_aside(self.folder))
        keep = [LatestN(n=2), BestN(get_metric_fn=_selected, n=1, keep_checkpoints_without_metrics=False)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else AnyPreservationPolicy(keep),
            best_fn=_selected,
            best_mode="max",
            read_only=read_only,
            create=not read_only,
            lightweight_initialize=read_only,  # reads no metrics, which may be damaged
            cleanup_tmp_directories=not read_only,  # what killed runs left
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            multiprocessing_options=_processes(alone=read_only),
        )
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        self._saving: int | None = None  # the step being written

    def save(self, state: TrainState, description: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Begins to write a checkpoint, after the one before it; without metrics it is never the best.

        Raises:
          OSError: if this one, or the one before it, cannot be written.
        """
        items = {
            "params": ocp.args.StandardSave(state.final_params),
            "optimizer": ocp.args.StandardSave(_rest(state)),
            "run": ocp.args.JsonSave(description),
        }
        self.wait()
        self._saving = int(state.step)
        with self._surfacing():
            self._manager.save(self._saving, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def _seal(self) -> None:
        """Called by Orbax in its thread, before the finished temporary directory is renamed."""
        names = (f"{self._saving}", f"{self._saving}.")
        (folder,) = (p for p in self.folder.iterdir() if p.name == names[0] or p.name.startswith(names[1]))
        write_checksums(folder)

    def last_step(self) -> int | None:
        return self._manager.latest_step()

    def choose(self, which: str) -> int | None:
        """The "best" or "last" step; a warning, and the next one, if its parameters are damaged. None: there is none.

        Raises:
          ValueError: if there are checkpoints and all of them are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if which == "best":
            steps.sort(key=self._metric, reverse=True)
        found = {}
        for step in steps:
            found[step] = find_damage(self.folder / f"{step}", ("params", "run", "metrics"))
            if found[step] is None:
                return step
            warnings.warn(f"{self.folder}: step {step} is damaged ({found[step]}) and another one used", stacklevel=2)
        if found:
            raise ValueError(f"{self.folder}: every checkpoint is damaged ({found[steps[0]]})")
        return None

    def _metric(self, step: int) -> float:
        try:
            return _selected(self._manager.metrics(step))
        except Exception:  # saved by a signal, without metrics; or damaged
            return -np.inf

    def description(self, step: int) -> dict[str, Any]:
        """What `save` was given: `config`, `model` and whatever else."""
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

    def wait(self) -> None:
        """Waits for the save under way; OSError if it failed."""
        with self._surfacing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends Orbax's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    @contextlib.contextmanager
    def _surfacing(self):
        """What fails in a save or its thread becomes one OSError that says what is left."""
        try:
            yield
        except Exception as error:  # whatever Orbax, TensorStore or the system raise
            whole = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
            left = f"step {whole[-1]} is whole" if whole else "there is no earlier one"
            full = "the disk is full; make room" if _is_full(error) else f"{type(error).__name__}: {error}; mend it"
            raise OSError(
                f"the checkpoint of step {self._saving} could not be written to {self.folder} ({left}): {full}, "
                "then the same command goes on"
            ) from error


def _rest(state: TrainState) -> dict[str, Any]:
    rest = {"step": state.step, "state": state.opt_state}
    return rest if state.average is None else {**rest, "params": state.params}


def _processes(alone: bool) -> ocp.options.MultiprocessingOptions:
    """All processes save and restore together; one that only reads does so alone."""
    if not alone or jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"{index}"
    )


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or bool(
        re.search("No space left on device|Disk quota exceeded", str(error))
    )


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
