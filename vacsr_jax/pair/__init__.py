"""The registry of methods: every way to compare an image with a text, by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from vacsr_jax.pair.adapter import DETERMINISTIC
from vacsr_jax.pair.base import Meaning, Method, PairModel, import_named
from vacsr_jax.pair.conjunction import CONJUNCTION
from vacsr_jax.pair.cosine import CROSS_ENTROPY, INFONCE, SIGMOID, TRIPLET
from vacsr_jax.pair.pcmepp import PCMEPP
from vacsr_jax.pair.propensity import PROPENSITY
from vacsr_jax.pair.tokens import TOKENS
from vacsr_jax.pair.vacsr_objective import VACSR
from vacsr_jax.towers.base import check_numbers, field_types

METHODS: dict[str, Method] = {
    "infonce": INFONCE,
    "cross_entropy": CROSS_ENTROPY,
    "sigmoid": SIGMOID,
    "triplet": TRIPLET,
    "pcmepp": PCMEPP,
    "conjunction": CONJUNCTION,
    "tokens": TOKENS,
    "deterministic": DETERMINISTIC,
    "vacsr": VACSR,
    "propensity": PROPENSITY,
}
PAIR_MODELS = {method.model.__name__: method.model for method in METHODS.values()}


def find_method(name: str) -> Method:
    """Returns the method that a config's `method` names.

    The name is a key of `METHODS`, or "my_package.my_module:MyMethod" for a method of another package.

    Raises:
      ValueError: if no method has this name.
    """
    if ":" in name:
        return import_named(name, Method)
    if name not in METHODS:
        raise ValueError(
            f"method: got {name!r}, expected one of {', '.join(METHODS)}, or my_package.my_module:MyMethod"
        )
    return METHODS[name]


def build_pair_model(config: ConfigDict, dim: int, texts: int = 0) -> PairModel:
    """Builds the pair model of the config's method for embeddings of `dim` numbers.

    The model's first logit is the base rate of positives, log(1 / (texts - 1)), unless `adapter.base_rate_bias` is off.
    `texts` is the number of texts that each image is compared with; 0 means the batch size.
    """
    pair = find_method(config.method).build(config, dim, first_logit(config, texts))
    check_saveable(pair)
    return pair


def first_logit(config: ConfigDict, texts: int = 0) -> float:
    """The logit at which a pair model starts; see `build_pair_model`."""
    base_rate = -math.log(max((texts or config.train.batch_size) - 1, 1))
    return base_rate if config.adapter.base_rate_bias else 0.0


def check_saveable(pair: Any) -> None:
    """Raises ValueError unless a checkpoint can describe the model, and the model says what its scores mean.

    This is checked before the first step, since otherwise the first checkpoint, or the last evaluation, would fail.
    """
    if not isinstance(pair, PairModel):
        raise ValueError(f"method: its build returned {pair!r:.80}, expected a PairModel")
    name = type(pair).__name__
    if not isinstance(pair.meaning, Meaning):
        raise ValueError(f"{name}.meaning: got {pair.meaning!r:.80}, expected a Meaning (vacsr_jax/pair/base.py)")
    for field in field_types(type(pair)):
        value = getattr(pair, field)
        if isinstance(value, nn.Module):
            check_saveable(value)
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(
                f"{name}.{field}: got {type(value).__name__}, which a checkpoint cannot keep; "
                "expected a number, a text, true, false, None or another pair model"
            )
    if pair_model_from(describe_pair_model(pair)) != pair:
        raise ValueError(f"{name}: a model with the fields of its description is not equal to it")


def describe_pair_model(pair: nn.Module) -> dict[str, Any]:
    """Describes a pair model in plain JSON values; `pair_model_from` is the inverse."""
    defaults = {f.name: f.default for f in dataclasses.fields(type(pair))}
    values = {name: getattr(pair, name) for name in field_types(type(pair))}
    # An option that is off is not written: models described before there was one stay as they were.
    values = {name: x for name, x in values.items() if not is_off(defaults[name]) or x != defaults[name]}
    described = {name: describe_pair_model(x) if isinstance(x, nn.Module) else x for name, x in values.items()}
    return {"type": type_name(type(pair))} | described


def is_off(default: Any) -> bool:
    """Whether a field's default is False or 0, which leaves an option out of a model."""
    return isinstance(default, bool | int) and not default


def type_name(model: type[nn.Module]) -> str:
    """Returns the class name of a model of this package, and "module:name" of any other, as `import_named` reads it."""
    own = PAIR_MODELS.get(model.__name__) is model
    return model.__name__ if own else f"{model.__module__}:{model.__qualname__}"


def pair_model_from(description: dict[str, Any] | None) -> PairModel:
    """Builds the pair model that `describe_pair_model` described.

    Raises:
      ValueError: if something is unknown, missing or of a wrong type; the message names it.
    """
    values = dict(description) if isinstance(description, dict) else {}
    kind = values.pop("type", None)
    if isinstance(kind, str) and ":" in kind:
        model = import_named(kind, PairModel, as_class=True)
    elif isinstance(kind, str) and kind in PAIR_MODELS:
        model = PAIR_MODELS[kind]
    else:
        raise ValueError(f"model description: got pair model {kind!r}, expected one of {', '.join(PAIR_MODELS)}")
    fields = field_types(model)
    off = {f.name for f in dataclasses.fields(model) if is_off(f.default)}
    differing = (set(values) ^ set(fields)) - (off - set(values))
    if differing:
        raise ValueError(
            f"model description: {kind} has the fields {', '.join(fields)}; "
            f"{', '.join(sorted(differing))} is missing or unknown"
        )
    check_numbers(values, fields, f"model description: {kind}")
    return model(**{name: pair_model_from(x) if isinstance(x, dict) else x for name, x in values.items()})
