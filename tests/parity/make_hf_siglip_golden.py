"""Writes the golden SigLIP: a tiny random Hugging Face SiglipModel, its tokenizers, inputs, and torch's outputs.

It needs torch, transformers and sentencepiece, of which only transformers is a dependency of the library:

    python tests/parity/make_hf_siglip_golden.py
"""

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import Siglip2Tokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipTokenizer

GOLDEN = Path(__file__).parent / "golden" / "hf_siglip"
TEXTS = [
    "A photo of a cat.",
    "two dogs, left of a RED square!",
    "ein Foto von Katze und Hund",
    "猫 写真 犬",
    "кошка фото собака",
    "ΓΑΤΑ φωτογραφια",
    "naïve café — 12 cats",
    "!?",
    "unseen 🙂 words " * 9,
]
LINE = "a photo of red green blue circle square left right above below two three cat dog ein foto von katze und hund"
WORDS = [
    *LINE.split(),
    "猫",
    "写真",
    "犬",
    "кошка",
    "фото",
    "собака",
    "γατα",
    "φωτογραφια",
    "naïve",
    "café",
    "12",
    "34",
]


def build_model(seed: int = 0, vocab_size: int = 99, **vision) -> SiglipModel:
    """A SigLIP whose every parameter is random and large enough to matter, biases and norms included."""
    torch.manual_seed(seed)
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "projection_size": 32,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 38,  # not a multiple of the patch size, as so400m at 384
        "patch_size": 12,
        **vision,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or parameter.numel() > 1:
                noise = torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3)
                parameter.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-4.5)
    return model


def train_pieces(folder: Path, rule: str = "identity") -> Path:
    """Writes spiece.model, trained on the words above with T5's ids; `rule` is SentencePiece's normalization."""
    import sentencepiece

    draw = random.Random(0)
    lines = folder / "lines.txt"
    lines.write_text("\n".join(" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) for _ in range(400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines),
        model_prefix=str(folder / "spiece"),
        vocab_size=86,
        model_type="unigram",
        normalization_rule_name=rule,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    lines.unlink()
    (folder / "spiece.vocab").unlink()
    return folder / "spiece.model"


def gemma_like() -> Siglip2Tokenizer:
    """A tokenizer built like SigLIP 2's: byte fallback, spaces as U+2581, an end token that the files add."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    characters = sorted(set("".join(WORDS)) | set("▁.,!?"))
    tokens = [*specials, *(f"<0x{i:02X}>" for i in range(256)), *characters]
    merges = [("▁", "a"), ("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g")]
    tokens += [a + b for a, b in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return Siglip2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=12, padding_side="right")


def make_inputs(model: SiglipModel, seed: int = 0) -> dict[str, np.ndarray]:
    """Normalized pixels [3, 3, s, s] and ids [4, 12] with ends early, late and at once, then pads."""
    rng = np.random.default_rng(seed)
    size, text = model.config.vision_config.image_size, model.config.text_config
    ids = rng.integers(3, text.vocab_size, (4, text.max_position_embeddings))
    for row, stop in enumerate((3, 11, 6, 0)):
        ids[row, stop:] = 1
    return {"pixels": rng.normal(size=(3, 3, size, size)).astype(np.float32), "ids": ids}


def run_model(model: SiglipModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tokens after the final norm and embeddings that are not normalized, of both towers, and the logits."""
    pixels, ids = torch.from_numpy(inputs["pixels"]), torch.from_numpy(inputs["ids"])
    with torch.no_grad():
        vision, text = model.vision_model(pixel_values=pixels), model.text_model(input_ids=ids)
        outputs = {
            "image_tokens": vision.last_hidden_state,
            "image_embedding": vision.pooler_output,
            "text_tokens": text.last_hidden_state,
            "text_embedding": text.pooler_output,
            "logits": model(input_ids=ids, pixel_values=pixels).logits_per_image,
        }
        if min(pixels.shape[2:]) >= 48:
            return {name: x.numpy() for name, x in outputs.items()}
        larger = torch.nn.functional.interpolate(pixels, size=(62, 62))
        resampled = model.vision_model(pixel_values=larger, interpolate_pos_encoding=True)
    outputs |= {"larger_pixels": larger, "larger_embedding": resampled.pooler_output}
    return {name: x.numpy() for name, x in outputs.items()}


def make_pictures() -> list[Image.Image]:
    """Pictures of every shape and mode."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, shape, np.uint8) for shape in ((50, 70, 3), (90, 40, 3), (38, 38, 3), (7, 9, 3))]
    pictures = [Image.fromarray(x) for x in noise]
    return [*pictures, pictures[0].convert("L"), pictures[1].convert("P"), Image.fromarray(noise[0]).convert("CMYK")]


def save_first(folder: Path, model: SiglipModel, size: int) -> None:
    """Writes the folder of a first-generation SigLIP."""
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        pieces = train_pieces(Path(scratch))
        SiglipTokenizer(str(pieces), model_max_length=12).save_pretrained(folder)
        shutil.copy(pieces, folder)


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    model = build_model()
    save_first(GOLDEN, model, 38)
    inputs = make_inputs(model)
    first = SiglipTokenizer.from_pretrained(GOLDEN)
    options = {"padding": "max_length", "truncation": True, "max_length": 12, "return_tensors": "np"}
    texts = first(TEXTS, **options).input_ids
    second = gemma_like()
    second.save_pretrained(GOLDEN / "second")
    processor = SiglipImageProcessorPil.from_pretrained(GOLDEN)
    pictures = np.stack([processor(x.convert("RGB"), return_tensors="np").pixel_values[0] for x in make_pictures()])
    with torch.no_grad():
        scores = model(input_ids=torch.from_numpy(texts), pixel_values=torch.from_numpy(pictures)).logits_per_image
    outputs = run_model(model, inputs)
    np.savez(GOLDEN / "golden.npz", **inputs, **outputs, text_ids=texts, pictures=pictures, scores=scores.numpy())
    print(f"{GOLDEN}: torch {torch.__version__}, transformers {transformers.__version__}")
