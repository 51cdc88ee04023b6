"""Checkpoints of a run: Orbax directories that contain config and checksums; the best and the last two are kept."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from vacsr_jax.training.checksums import find_damage, set_damaged_aside, write_checksums
from vacsr_jax.training.multihost import on_first_process
from vacsr_jax.training.state import TrainState
from vacsr_jax.workdir import CHECKPOINTS

SELECTION = "selection"  # the key of `Selection` in a checkpoint's metrics
OLD_SELECTION = "rsum"  # its key in earlier versions: a validation rsum or, with classes as texts, the step


class Selection(NamedTuple):
    """Decides which checkpoint of a run is the best: the one with the largest `value`.

    `by` names the criterion: "validation/rsum", or "step", which makes the last checkpoint the best. All checkpoints of
    a run have the same criterion, since values of different criteria cannot be compared.
    """

    by: str
    value: float


class Checkpoints:
    """The checkpoints under `workdir/checkpoints`, each with `params`, `optimizer`, and `run` (config and model).

    `params` are evaluated and loaded. If they are an average, `optimizer` also holds the parameters in training.

    A checkpoint is written to a temporary directory, which is then renamed, so a killed run never leaves half of one
    behind. It contains the checksums of its files. The best and the last two are kept: two, because the last may be the
    best and turn out to be damaged. Opening a folder to train (not `read_only`) renames damaged checkpoints and warns.

    Raises:
      ValueError: when opened to train, if there are checkpoints and all of them are damaged, or if the path has a
        character that Orbax takes for a pattern.
    """

    def __init__(self, workdir: str | Path, *, read_only: bool = False):
        self.folder = Path(workdir).absolute() / CHECKPOINTS
        if not read_only:
            check_path(self.folder)
            on_first_process(lambda: set_damaged_aside(self.folder))
        with _unlogged() if read_only else contextlib.nullcontext():
            self._manager = self._open(read_only)
        self._saving: int | None = None  # the step being written

    def _open(self, read_only: bool) -> ocp.CheckpointManager:
        keep = [LatestN(n=2), BestN(get_metric_fn=selected_value, n=1, keep_checkpoints_without_metrics=False)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else AnyPreservationPolicy(keep),
            best_fn=selected_value,
            best_mode="max",
            read_only=read_only,
            create=not read_only,
            lightweight_initialize=read_only,  # does not read metrics, which may be damaged
            cleanup_tmp_directories=not read_only,  # left by killed runs
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            multiprocessing_options=_processes(alone=read_only),
        )
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "optimizer": ocp.StandardCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        }
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def save(self, state: TrainState, description: dict[str, Any], selection: Selection | None) -> None:
        """Starts to write a checkpoint, after the previous one is written; without a selection it is never the best.

        Raises:
          OSError: if this checkpoint, or the previous one, cannot be written.
        """
        items = {
            "params": ocp.args.StandardSave(state.final_params),
            "optimizer": ocp.args.StandardSave(_rest(state)),
            "run": ocp.args.JsonSave(description),
        }
        metrics = None if selection is None else {SELECTION: selection._asdict()}
        self.wait()
        self._saving = int(state.step)
        with self._surfacing():
            self._manager.save(self._saving, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def _seal(self) -> None:
        """Orbax calls this in its thread, before it renames the finished temporary directory."""
        names = (f"{self._saving}", f"{self._saving}.")
        (folder,) = (p for p in self.folder.iterdir() if p.name == names[0] or p.name.startswith(names[1]))
        write_checksums(folder)

    def last_step(self) -> int | None:
        return self._manager.latest_step()

    def choose(self, which: str) -> int | None:
        """The "best" or "last" step, or None if there is none. If its parameters are damaged, warns and skips it.

        Raises:
          ValueError: if there are checkpoints and all of them are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if which == "best":
            steps.sort(key=self._value, reverse=True)  # stable: among equals, the later step
        found = {}
        for step in steps:
            found[step] = find_damage(self.folder / f"{step}", ("params", "run", "metrics"))
            if found[step] is None:
                return step
            warnings.warn(f"{self.folder}: step {step} is damaged ({found[step]}) and is skipped", stacklevel=2)
        if found:
            raise ValueError(f"{self.folder}: every checkpoint is damaged ({found[steps[0]]})")
        return None

    def best_step(self) -> int | None:
        """The step with the best value so far, or None; does not read what else a checkpoint holds."""
        values = {step: self._value(step) for step in self._manager.all_steps()}
        values = {step: value for step, value in values.items() if value > -np.inf}
        return max(values, key=lambda step: (values[step], -step)) if values else None

    def _value(self, step: int) -> float:
        try:
            return selected_value(self._manager.metrics(step))
        except Exception:  # saved at a signal, without a selection; or damaged
            return -np.inf

    def description(self, step: int) -> dict[str, Any]:
        """The description that `save` was given: `config`, `model` and more."""
        return self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, with the shapes, types and placement of the arrays in `like`, wherever it was saved."""
        args = {"params": _restore_like(like.params), "optimizer": _restore_like(_rest(like))}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        saved, rest = restored["params"], restored["optimizer"]
        average = None if like.average is None else saved
        return TrainState(rest["step"], rest.get("params", saved), rest["state"], average)

    def restore_params(self, step: int, like: Any) -> Any:
        """The parameters alone; `like` as in `restore`."""
        return self._manager.restore(step, args=ocp.args.Composite(params=_restore_like(like)))["params"]

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The path and shape of each saved parameter."""
        tree = self._manager.item_metadata(step)["params"].tree
        return {name: tuple(leaf.shape) for name, leaf in flatten_dict(tree, sep="/").items()}

    def wait(self) -> None:
        """Waits until the current save is finished; OSError if it has failed."""
        with self._surfacing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the current save, then ends Orbax's threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    @contextlib.contextmanager
    def _surfacing(self):
        """Turns a failure in a save or its thread into one OSError, which names the last good checkpoint."""
        try:
            yield
        except Exception as error:  # Orbax, TensorStore and the system raise many types
            whole = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
            left = f"step {whole[-1]} is whole" if whole else "there is no earlier one"
            advice = "the disk is full; make room" if _is_full(error) else f"{type(error).__name__}: {error}; fix it"
            raise OSError(
                f"the checkpoint of step {self._saving} could not be written to {self.folder} ({left}): {advice}, "
                "then run the same command again to continue"
            ) from error


def check_path(path: Path) -> None:
    """Raises ValueError for a path in which Orbax could not read its checkpoints again."""
    if pattern := re.search(r"[*?\[]", str(path.absolute())):
        raise ValueError(
            f"{path}: got {pattern[0]!r} in the path, which leaves Orbax's checkpoints unreadable; "
            "give another --workdir"
        )


@contextlib.contextmanager
def _unlogged():
    """Silences Orbax's warnings: two of them say, at every load, that a folder opened for reading is read-only."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _rest(state: TrainState) -> dict[str, Any]:
    rest = {"step": state.step, "state": state.opt_state}
    return rest if state.average is None else {**rest, "params": state.params}


def _processes(alone: bool) -> ocp.options.MultiprocessingOptions:
    """All processes save and restore together; a process that only reads does it alone."""
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


def selected_value(metrics: dict[str, Any]) -> float:
    """The value by which checkpoints are compared, from one checkpoint's metrics; larger is better."""
    return metrics[SELECTION]["value"] if SELECTION in metrics else metrics[OLD_SELECTION]


def _restore_like(tree: Any) -> ocp.args.StandardRestore:
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))


def config_to_dict(config: ConfigDict) -> dict[str, Any]:
    """Plain JSON values; `config_from_dict` is the inverse."""
    return json.loads(config.to_json())


def config_from_dict(values: dict[str, Any]) -> ConfigDict:
    def convert(value):
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return ConfigDict(convert(values)).lock()


def config_differences(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> list[str]:
    """A line `field: saved x, given y` for each field in which two configs (plain dicts) differ."""
    found = []
    for name in sorted(saved.keys() | given.keys()):
        a, b = saved.get(name, "(absent)"), given.get(name, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            found += config_differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: saved {a}, given {b}")
    return found
