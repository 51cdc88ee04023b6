"""`vacsr export`: writes a trained model as safetensors, StableHLO or ONNX."""

from __future__ import annotations

import argparse
import functools
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
  vacsr export --model=runs/siglip --out=exported --format=transformers

safetensors: model.safetensors, config.json and tokenizer/, which vacsr_jax.load reads, without Orbax.

transformers: the towers as a CLIP or a SigLIP of Hugging Face, with scale and bias of a cosine, for
transformers.AutoModel and vacsr_jax.load. Towers of another shape (the presets tiny) cannot be written so.

peft: the low-rank adapters of a run with optim.lora, for peft.PeftModel and vacsr_jax.load.

stablehlo, onnx: the functions image, text and score as a file each, tokenizer/, and functions.json, which says what
they take and give. They run without this library: with jax.export.deserialize, or ONNX Runtime. Their pictures are RGB
bytes [n, size, size, 3]; normalization is inside. Each file is read again and compared with the model."""


def register(verbs: Verbs) -> None:
    parser = verbs.add(
        "export", run, "Write a trained model as safetensors, StableHLO or ONNX, or for transformers.", EXAMPLE
    )
    parser.add_argument("--model", help="a workdir", required=True)
    parser.add_argument("--out", help="folder to write", required=True)
    parser.add_argument("--format", default="safetensors", choices=(*FORMATS, "peft"), help="(default: safetensors)")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="of the workdir (default: best)")
    parser.add_argument(
        "--half",
        action="store_true",
        help="store safetensors as float16, in half the space; loaded, they are float32",
    )


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.pretrained import load

    if options.half and options.format != "safetensors":
        raise ValueError(f"--half: got it with --format={options.format}, and it is for safetensors; leave it out")
    if options.format == "peft":
        print(f"{options.out}: {peft(options.model, options.out, options.checkpoint)}")
        return
    model = load(options.model, checkpoint=options.checkpoint)
    write = functools.partial(safetensors, half=options.half) if options.half else FORMATS[options.format]
    print(f"{options.out}: {write(model, options.out)}")


def safetensors(model: Pretrained, folder: str, half: bool = False) -> str:
    model.save(folder, half=half)
    return "model.safetensors, config.json, tokenizer/"


def stablehlo(model: Pretrained, folder: str) -> str:
    from vacsr_jax.deploy.stablehlo import export_stablehlo

    return functions(Path(folder), "stablehlo", export_stablehlo(model, folder))


def onnx(model: Pretrained, folder: str) -> str:
    from vacsr_jax.deploy.onnx import export_onnx

    return functions(Path(folder), "onnx", export_onnx(model, folder))


def peft(workdir: str, folder: str, checkpoint: str) -> str:
    from vacsr_jax.training.saved_model import export_peft

    export_peft(Path(workdir), folder, checkpoint)
    return "adapter_config.json, adapter_model.safetensors"


def transformers(model: Pretrained, folder: str) -> str:
    from vacsr_jax.deploy.transformers import export_transformers

    missing = export_transformers(model, folder)
    files = "config.json, model.safetensors, preprocessor_config.json, tokenizer.json, tokenizer_config.json"
    return f"{files}; {missing}" if missing else files


def functions(folder: Path, suffix: str, difference: float) -> str:
    """What was written, with sizes, and how exact it is."""
    files = ", ".join(
        f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)" for file in sorted(folder.glob(f"*.{suffix}*"))
    )
    return f"{files}, functions.json, tokenizer/; largest difference from the model {difference:.1g}"


# --format -> what writes it; returns what it wrote.
FORMATS = {"safetensors": safetensors, "stablehlo": stablehlo, "onnx": onnx, "transformers": transformers}
