"""A model as StableHLO (`jax.export`): programs that JAX, and other runtimes of StableHLO, run without this library.

from jax import export
score = export.deserialize(open("exported/score.stablehlo", "rb").read()).call
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
from jax import export

from vacsr_jax.atomic_files import write_text
from vacsr_jax.deploy.functions import DESCRIPTION, Function, describe, functions_of, largest_difference, write_files
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.workdir import TOKENIZER

SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(model: Pretrained, folder: str | Path) -> float:
    """Writes image, text and score as .stablehlo for PLATFORMS, the tokenizer, and functions.json about them.

    Each file is read again and compared with the model on this machine. Returns the largest difference.

    Raises:
      ValueError: if a function cannot be exported, or differs; nothing is written then.
    """
    functions = functions_of(model)
    try:
        files = [_serialize(function) for function in functions]
    except Exception as error:  # a shape that depends on n or m, an operation without a form for a platform: many types
        raise ValueError(f"the model cannot be exported as StableHLO: {error}") from error
    worst = largest_difference(model, functions, [export.deserialize(file).call for file in files])

    def write(temporary: Path) -> None:
        for function, file in zip(functions, files, strict=True):
            (temporary / f"{function.name}{SUFFIX}").write_bytes(file)
        description = describe(model, functions, "stablehlo", SUFFIX) | {"platforms": PLATFORMS, "jax": jax.__version__}
        write_text(temporary / DESCRIPTION, json.dumps(description, indent=2) + "\n")

    write_files(Path(folder), write)
    model.tokenizer.save(Path(folder) / TOKENIZER)
    return worst


def _serialize(function: Function) -> bytearray:
    n, m = export.symbolic_shape("n, m")
    shapes = [x.abstract({"n": n, "m": m}) for x in function.inputs]
    return export.export(jax.jit(function.call), platforms=PLATFORMS)(*shapes).serialize()
