"""What a method of another package may get wrong, said before the first step."""

import sys
import types
from typing import Any

import jax.numpy as jnp
import pytest

from configs import scenes
from vacsr_jax.losses import contrastive
from vacsr_jax.pair import METHODS, build_pair_model, find_method
from vacsr_jax.pair.base import Meaning, Method, PairModel, of_logits
from vacsr_jax.pair.cosine import CosineModel

SAYS = Meaning("a logit", None, None)


class Tuple(PairModel):
    sizes: tuple = (1, 2)
    meaning = SAYS


class Array(PairModel):
    prior: Any = None
    meaning = SAYS


class Silent(PairModel):
    meaning = "a logit"


def method_of(model, build=None):
    return Method("test", model, build or (lambda *given: model()), of_logits(contrastive.sigmoid))


@pytest.fixture
def module(monkeypatch):
    """A module of another package, importable by name."""
    made = types.ModuleType("someones_module")
    monkeypatch.setitem(sys.modules, "someones_module", made)
    return made


def build(method, module, **fields):
    module.Mine = method
    config = scenes.get_config("method=someones_module:Mine")
    config.update_from_flattened_dict(fields)
    return build_pair_model(config, 8)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (method_of(Tuple), r"Tuple\.sizes: got tuple, which a checkpoint cannot keep"),
        (method_of(Array, lambda *given: Array(jnp.ones(2))), r"Array\.prior: got ArrayImpl, which a checkpoint"),
        (method_of(Silent), r"Silent\.meaning: got 'a logit', expected a Meaning"),
        (
            method_of(CosineModel, lambda *given: CosineModel),
            "its build returned <class .*CosineModel",
        ),
        (Method, "someones_module:Mine: got <class .*Method.*expected a Method"),
        (CosineModel, "someones_module:Mine: got <class .*CosineModel.*expected a Method"),
    ],
    ids=["tuple", "array", "meaning", "class from build", "Method itself", "a model"],
)
def test_a_mistake_is_named_before_the_first_step(module, method, message):
    with pytest.raises(ValueError, match=message):
        build(method, module)


def test_a_class_inside_a_function_cannot_be_saved(module):
    class Local(PairModel):
        meaning = SAYS

    with pytest.raises(ValueError, match="has no test_a_class_inside_a_function_cannot_be_saved"):
        build(method_of(Local), module)


def test_propensity_does_not_wrap_itself(module):
    module.Mine = METHODS["propensity"]
    config = scenes.get_config("method=propensity")
    config.propensity.match = "someones_module:Mine"
    with pytest.raises(ValueError, match="someones_module:Mine is a propensity method"):
        build_pair_model(config, 8)


def test_a_name_that_there_is_not():
    with pytest.raises(
        ValueError, match=r"method: got .vacrs., expected one of infonce, .*or my_package.my_module:MyMethod"
    ):
        find_method("vacrs")
