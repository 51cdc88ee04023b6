"""A model as ONNX, through jax2onnx: files that ONNX Runtime runs without JAX."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.extend.core import jaxpr_as_fun

from vacsr_jax.atomic_files import write_text
from vacsr_jax.deploy.functions import DESCRIPTION, Function, describe, functions_of, largest_difference, write_files
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.workdir import TOKENIZER

SUFFIX = ".onnx"


def export_onnx(model: Pretrained, folder: str | Path) -> float:
    """Writes image, text and score as .onnx, the tokenizer, and functions.json about them.

    Each file is run with ONNX Runtime and compared with the model. Returns the largest difference.

    Raises:
      ValueError: without the packages jax2onnx and onnxruntime, if a function cannot be converted, or differs.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(f'--format=onnx: {error}; pip install "vacsr_jax[onnx]"') from None
    functions = functions_of(model)

    def write(temporary: Path) -> float:
        for function in functions:
            convert(jax2onnx.to_onnx, function, temporary / f"{function.name}{SUFFIX}")
        paths = [temporary / f"{function.name}{SUFFIX}" for function in functions]
        worst = largest_difference(model, functions, [_runner(onnxruntime, path) for path in paths])
        description = describe(model, functions, "onnx", SUFFIX)
        write_text(temporary / DESCRIPTION, json.dumps(description, indent=2) + "\n")
        return worst

    worst = write_files(Path(folder), write)
    model.tokenizer.save(Path(folder) / TOKENIZER)
    return worst


def convert(to_onnx: Callable[..., Any], function: Function, path: Path) -> None:
    """Writes one function; weights of more than 2 GB go to a file beside it.

    Raises:
      ValueError: if jax2onnx does not know an operation.
    """
    n, m = export.symbolic_shape("n, m")
    shapes = [x.abstract({"n": n, "m": m}) for x in function.inputs]
    # Traced here, because jax2onnx traces with 64 bits, in which some of our scans have two types.
    traced = jaxpr_as_fun(jax.make_jaxpr(function.call)(*shapes))
    chatter = logging.getLogger("onnx_ir")
    before = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            to_onnx(
                traced,
                shapes,
                model_name=function.name,
                return_mode="file",
                output_path=str(path),
                input_names=[x.name for x in function.inputs],
                output_names=[x.name for x in function.outputs],
            )
    except Exception as error:  # jax2onnx raises many types
        raise ValueError(f"{function.name} cannot be converted by jax2onnx: {type(error).__name__}: {error}") from error
    finally:
        chatter.setLevel(before)


def _runner(onnxruntime: Any, path: Path) -> Callable[..., Sequence[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))
