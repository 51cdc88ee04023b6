"""The training loop: reads batches, writes checkpoints and training curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vacsr_jax.atomic_files import parse_json, to_json, write_text
from vacsr_jax.config_files import with_new_fields
from vacsr_jax.data.loader import Pairs, batches
from vacsr_jax.data.noise import write_noise
from vacsr_jax.data.source import labels_of
from vacsr_jax.evaluation.classification import score_classes
from vacsr_jax.evaluation.retrieval import score_source
from vacsr_jax.image_text import describe
from vacsr_jax.metrics.classification import accuracy
from vacsr_jax.metrics.retrieval import retrieval_metrics
from vacsr_jax.optim.factory import make_optimizer
from vacsr_jax.optim.lora import add_lora, merged
from vacsr_jax.training.checkpoint import (
    Checkpoints,
    Selection,
    check_path,
    config_differences,
    config_from_dict,
    config_to_dict,
)
from vacsr_jax.training.checks import check_config, check_step
from vacsr_jax.training.log_to import choose_services
from vacsr_jax.training.metric_writer import MetricWriter
from vacsr_jax.training.multihost import check_same, check_shares, host_copy, on_first_process
from vacsr_jax.training.run import Run, set_up
from vacsr_jax.training.sharding import make_mesh, shard_batch, state_sharding
from vacsr_jax.training.state import TrainState, init_state
from vacsr_jax.training.step import Step, make_step
from vacsr_jax.training.stop import Stopped, watch_signals
from vacsr_jax.training.workdir_lock import hold
from vacsr_jax.workdir import CONFIG, METRICS, NOISE, TOKENIZER

# These fields change how a machine computes and tells, but not what: a run may be resumed with other values.
PLACEMENT = ("train.shard_params:", "train.tile_pairs:", "train.text_chunk:", "train.log_to:", "data.workers:")

# These fields may differ where a finished run is extended.
EXTENSION: tuple[str, ...] = ("train.steps:", "train.epochs:", "train.extended_from:", "train.patience:")
EXTENSION += ("optim.extension_lr:", "optim.schedule:", "optim.step_at:", "optim.warmup_steps:")


class DivergedError(ValueError):
    """The loss is no longer finite."""


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    mesh: Mesh | None = None,
    prepare: Callable[[ConfigDict, Path], Run] = set_up,
) -> tuple[Run, TrainState]:
    """Trains up to `train.steps`, from the workdir's last checkpoint if it has one; returns the last state.

    `prepare` sets the run up; it may open other data than the config names, such as a part of them.

    Raises:
      ValueError: if the workdir holds a run of another config, another process trains there, all its checkpoints are
        damaged, or the config does not fit the data or devices. A run that is refused leaves nothing in a new workdir.
      OSError: if a checkpoint or a record cannot be written.
      DivergedError: if the loss is not finite; it names the step, the ids of its batch, and the last checkpoint.
      Stopped: after SIGTERM or Ctrl-C, once the checkpoint of the last step is written.
    """
    workdir = Path(workdir)
    check_config(config)
    check_path(workdir)
    with hold(workdir):
        check_claim(workdir, config)
        run = prepare(config, workdir)
        mesh = mesh or make_mesh()
        check_shares(mesh)
        check_same(config.to_json(), content_to_compare(run), len(run.pairs.source))
        state, step = start(run, mesh)
        if not (workdir / CONFIG).exists():
            check_step(run.config, run.pairs, state, step)
        on_first_process(lambda: claim(workdir, config, run))
        checkpoints = Checkpoints(workdir)
        try:
            last, pending = checkpoints.last_step(), []
            if last is not None:
                state, pending = checkpoints.restore(last, state), restore_terms(checkpoints.description(last))
            if int(state.step) < run.config.train.steps and not out_of_patience(run.config, last, checkpoints):
                state = take_steps(
                    run, state, step, mesh=mesh, checkpoints=checkpoints, records=workdir / METRICS, pending=pending
                )
        finally:
            checkpoints.close()
    return run, state


def content_to_compare(run: Run) -> np.ndarray:
    """Numbers that are the same for processes that have read the same data: tokens, or which vectors there are."""
    if not isinstance(run.pairs, Pairs):
        return np.asarray(run.class_tokens)
    tokens = run.pairs.tokens
    return tokens if isinstance(tokens, np.ndarray) else tokens.rows


def out_of_patience(config: ConfigDict, step: int | None, checkpoints: Checkpoints) -> bool:
    """Whether the best checkpoint is `train.patience` checkpoints older than that of this step."""
    best = checkpoints.best_step() if config.train.patience and step is not None else None
    return best is not None and step is not None and step - best >= config.train.patience * config.checkpoint.every


def claim(workdir: Path, config: ConfigDict, run: Run) -> None:
    """Writes the run's files, once. The config is written last, so that if it exists, the other files do too."""
    if not (workdir / CONFIG).exists():
        if run.tokenizer is not None:
            run.tokenizer.save(workdir / TOKENIZER)
        if run.noise:
            write_noise(workdir / NOISE, run.noise.index)
    if config.train.extended_from or not (workdir / CONFIG).exists():  # an extension replaces the config of its run
        write_text(workdir / CONFIG, to_json(config_to_dict(config)))


def start(run: Run, mesh: Mesh) -> tuple[TrainState, Step]:
    """Returns the state of step 0 on the mesh, and the step that updates it."""
    params = add_lora(run.params, run.config.optim, run.config.seed)
    optimizer = make_optimizer(run.config, params)
    state = init_state(params, optimizer, average=run.config.optim.average_from > 0)
    shardings = state_sharding(state, mesh, shard_params=run.config.train.shard_params)
    state = jax.device_put(state, shardings, may_alias=False)  # the step reuses its memory; run.params must survive
    return state, make_step(run.config, run.model, optimizer, mesh, state, run.class_tokens)


def check_claim(workdir: Path, config: ConfigDict) -> None:
    """Raises ValueError if the workdir holds a run of another config; the message names the fields.

    Fields that are newer than the run count as given at their defaults.
    A finished run may be extended (train.extended_from): with more steps, and a schedule for them.
    """
    file = workdir / CONFIG
    if not file.exists():
        if config.train.extended_from:
            raise ValueError(f"train.extended_from: {workdir} holds no run to extend; leave it at 0 to start one")
        return
    try:
        saved = parse_json(file.read_bytes())
        if not isinstance(saved, dict):
            raise ValueError(f"got {type(saved).__name__}, expected an object")
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); remove it to continue with the given config") from error
    known = config_to_dict(with_new_fields(config_from_dict(saved)))
    differences = config_differences(known, config_to_dict(config))
    differences = [difference for difference in differences if not difference.startswith(PLACEMENT)]
    if any(difference.startswith("train.extended_from:") for difference in differences):
        check_finished(workdir, config.train.extended_from)
        differences = [difference for difference in differences if not difference.startswith(EXTENSION)]
    if differences:
        longer = any(difference.startswith(("train.steps:", "train.epochs:")) for difference in differences)
        hint = ". To train a finished run further, set train.extended_from and optim.extension_lr" if longer else ""
        raise ValueError(
            f"{workdir} holds a run of another config: {'; '.join(differences)}. "
            f"Give that config again to resume it, or another --workdir{hint}"
        )


def check_finished(workdir: Path, steps: int) -> None:
    """Raises ValueError unless the workdir holds a run of this many steps that is finished."""
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        last = checkpoints.last_step()
        planned = None if last is None else checkpoints.description(last)["config"]["train"]["steps"]
    finally:
        checkpoints.close()
    if last != steps or last != planned:
        raise ValueError(
            f"train.extended_from: got {steps}, but {workdir} is at step {last} of {planned}; finish that run first, "
            "with its own config, and give its number of steps"
        )


# The terms of a step, still on the device, and its pairs (None: an earlier process took the step).
Pending = list[tuple[dict, np.ndarray | None]]


def take_steps(
    run: Run,
    state: TrainState,
    step: Step,
    *,
    mesh: Mesh,
    checkpoints: Checkpoints,
    records: Path,
    pending: Pending,
) -> TrainState:
    """Trains from the state's step to the last one.

    Args:
      records: the file of the training curves.
      pending: terms of the steps since the last record.
    """
    config, start = run.config, int(state.step)
    description = {"config": config_to_dict(config), "model": describe(run.model)}
    shard = (jax.process_index(), jax.process_count())
    data = batches(
        run.pairs,
        batch_size=config.train.batch_size,
        seed=config.seed,
        start_step=start,
        shard=shard,
        workers=config.data.workers,
    )
    writer = MetricWriter(
        records if jax.process_index() == 0 else None,
        start=start,
        total=config.train.steps,
        services=choose_services(config.train.log_to),
        config=description["config"],
    )
    with closing(data), closing(writer), watch_signals() as stop:
        if config.train.patience and start == 0:  # the start takes part in the choice of the best
            metrics, state = validate_state(run, state)
            writer.write(0, metrics)
            checkpoints.save(state, description, selection_of(run, metrics, 0))
        for number, batch in zip(range(start + 1, config.train.steps + 1), data, strict=False):
            index = batch.pop("index")
            state, terms = step(state, shard_batch(batch, mesh))
            pending.append((terms, index))
            writer.advance()
            stopped_by = stop(number)
            save = number % config.checkpoint.every == 0 or number == config.train.steps
            if save or number % config.train.log_every == 0:
                writer.write(number, means(finite_terms(pending, number, run, checkpoints)))
                pending = []
            if save:
                metrics, state = validate_state(run, state)
                writer.write(number, metrics)
                checkpoints.save(state, description, selection_of(run, metrics, number))
            elif stopped_by:  # without a selection, so that a stopped run has the same best checkpoint as any other
                kept = finite_terms(pending, number, run, checkpoints)
                checkpoints.save(state, {**description, "terms": kept}, None)
            if save and config.train.patience:
                checkpoints.wait()
                if out_of_patience(config, number, checkpoints):
                    break
            if stopped_by:
                checkpoints.wait()
                raise Stopped(f"step {number} is saved; run the same command again to continue from it", stopped_by)
    return state


def selection_of(run: Run, metrics: dict[str, float], number: int) -> Selection:
    """Selects the checkpoint with the largest validation rsum, or the last one if the texts are classes.

    The last is right for classes, because few-shot protocols evaluate the last model.
    """
    if run.class_tokens is not None:
        return Selection("step", number)
    return Selection("validation/rsum", metrics["validation/rsum"])


def restore_terms(description: dict) -> Pending:
    """The terms since the last record, which a stopped run has left in its checkpoint's description."""
    return [(terms, None) for terms in description.get("terms", [])]


def means(terms: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([of_step[name] for of_step in terms])) for name in terms[0]}


def finite_terms(pending: Pending, number: int, run: Run, checkpoints: Checkpoints) -> list[dict[str, float]]:
    """The terms of the steps since the last record, up to step `number`; DivergedError if one is not finite."""
    fetched = jax.device_get([terms for terms, _ in pending])
    fetched = [{name: float(value) for name, value in terms.items()} for terms in fetched]  # JSON stores floats exactly
    for i, terms in enumerate(fetched):
        if not all(np.isfinite(value) for value in terms.values()):
            pairs = [run.pairs.source.ids[j] for j in run.pairs.image_index[pending[i][1]]]
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
            last = checkpoints.last_step()
            kept = f"the last good checkpoint is step {last}" if last else "no checkpoint was written yet"
            raise DivergedError(
                f"step {number - len(pending) + 1 + i}: the loss is not finite ({numbers}); {kept}. Lower optim.lr, or "
                f"look at the batch's images: {', '.join(map(str, pairs))}"
            )
    return fetched


def validate_state(run: Run, state: TrainState) -> tuple[dict[str, float], TrainState]:
    """Evaluates the parameters of a state; returns metrics, and the state with what was fitted to the labels."""
    params = merged(host_copy(state.final_params), run.config.optim)
    metrics, fitted = validate(run, params)
    return metrics, with_fitted(state, params["pair"], fitted["pair"])


def validate(run: Run, params) -> tuple[dict[str, float], Any]:
    """Evaluates on the validation split: returns metrics, and the parameters with probabilities fitted to its labels.

    The metrics are rsum and both R@1 against the labels, or the accuracy if the texts are classes; {} without that
    data.
    """
    if run.validation is None:
        return {}, params
    if run.class_tokens is not None:
        scores = score_classes(run.model, params, run.validation, run.class_tokens, None)
        return {"validation/accuracy": accuracy(scores.logit, labels_of(run.validation))}, params
    scores, labels = score_source(run.model, params, run.validation, run.tokenizer, None)
    metrics = retrieval_metrics(scores.by_label(), labels)
    fitted = {**params, "pair": run.model.pair.calibrate(params["pair"], scores, labels)}
    return {f"validation/{name}": metrics[name] for name in ("rsum", "i2t/R@1", "t2i/R@1")}, fitted


def with_fitted(state: TrainState, before: Any, fitted: Any) -> TrainState:
    """The state with what was fitted on the host of the pair model: the leaves in which `fitted` is not `before`."""

    def put(params: Any) -> Any:
        pair = jax.tree.map(
            lambda x, a, b: x if a is b else jax.device_put(b, x.sharding), params["pair"], before, fitted
        )
        return {**params, "pair": pair}

    average = None if state.average is None else put(state.average)
    return dataclasses.replace(state, params=put(state.params), average=average)
