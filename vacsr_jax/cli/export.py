"""`vacsr export`: writes a trained model as safetensors, StableHLO or ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vacsr_jax.cli.verbs import Verbs

if TYPE_CHECKING:
    from vacsr_jax.pretrained import Pretrained

EXAMPLE = """example:
  vacsr export --model=runs/scenes --out=exported
  python -c "import vacsr_jax; print(vacsr_jax.load('exported').score(['a.png'], ['a red square']))"
  vacsr export --model=runs/scenes --out=exported --format=stablehlo
  vacsr export --model=runs/scenes --out=exported --format=onnx

safetensors: model.safetensors, config.json and tokenizer/, which vacsr_jax.load reads, without Orbax.

stablehlo, onnx: the functions image, text and score as a file each, tokenizer/, and functions.json, which says what
they take and give. They run without this library: with jax.export.deserialize, or ONNX Runtime. Their pictures are RGB
bytes [n, size, size, 3]; normalization is inside. Each file is read again and compared with the model."""


def register(verbs: Verbs) -> None:
    parser = verbs.add("export", run, "Write a trained model as safetensors, StableHLO or ONNX.", EXAMPLE)
    parser.add_argument("--model", help="a workdir", required=True)
    parser.add_argument("--out", help="folder to write", required=True)
    parser.add_argument("--format", default="safetensors", choices=FORMATS, help="(default: safetensors)")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of the workdir (default: best)")


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.pretrained import load

    print(f"{options.out}: {FORMATS[options.format](load(options.model, checkpoint=options.checkpoint), options.out)}")


def safetensors(model: Pretrained, folder: str) -> str:
    model.save(folder)
    return "model.safetensors, config.json, tokenizer/"


def stablehlo(model: Pretrained, folder: str) -> str:
    from vacsr_jax.deploy.stablehlo import export_stablehlo

    return functions(Path(folder), "stablehlo", export_stablehlo(model, folder))


def onnx(model: Pretrained, folder: str) -> str:
    from vacsr_jax.deploy.onnx import export_onnx

    return functions(Path(folder), "onnx", export_onnx(model, folder))


def functions(folder: Path, suffix: str, difference: float) -> str:
    """What was written, with sizes, and how exact it is."""
    files = ", ".join(
        f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)" for file in sorted(folder.glob(f"*.{suffix}*"))
    )
    return f"{files}, functions.json, tokenizer/; largest difference from the model {difference:.1g}"


# --format -> what writes it; returns what it wrote.
FORMATS = {"safetensors": safetensors, "stablehlo": stablehlo, "onnx": onnx}
