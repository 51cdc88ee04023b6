"""What a person waits for every day, beside its peers: one query, a folder of pictures, a start, a search.

`python -m experiments.benchmarks.everyday --out=everyday.json` measures all in one run, of at most ten minutes on two
cores, prints a table, and writes the numbers; null stands for a peer that is not installed. Each part has a process of
its own. Parts of one core count CPU time, which is the latency on a quiet machine; the others count wall-clock time.
Contenders take turns, and the fastest of the rounds counts.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.benchmarks.timing import best_seconds, machine
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.report.tables import format_table

Numbers = dict[str, float | None]

SIZES = {
    "preset": "ViT-B/32",
    "pictures": 256,
    "batch": 256,  # images encoded at once
    "documents": 1_000_000,
    "dim": 512,
    "adapter_dim": 1024,
    "pairs": (64, 256),
    "rounds": 5,
}
QUERY = "a photo of a cat"
LOADED = 64  # images of a training batch
WORKERS = 2
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
# name, numerator, denominator, the goal's side and its number
GOALS = [
    ("one text, time / PyTorch's", "encode_one_text_s", "torch_encode_one_text_s", "<=", 1.1),
    ("one image, time / PyTorch's", "encode_one_image_s", "torch_encode_one_image_s", "<=", 1.1),
    ("256 images, rate / PyTorch's", "encode_256_images_per_s", "torch_encode_256_images_per_s", ">=", 1.0),
    (
        "embedding files, rate / the slower of decoding and encoding",
        "embed_images_per_s",
        "embed_bound_per_s",
        ">=",
        0.9,
    ),
    ("loader, CLIP, rate / PyTorch's", "loader_images_per_s", "torch_loader_images_per_s", ">=", 1.2),
    ("loader, PCME++, rate / PyTorch's", "loader_pcmepp_images_per_s", "torch_loader_pcmepp_images_per_s", ">=", 1.2),
    ("one query, time / FAISS flat's", "search_one_query_1m_s", "faiss_flat_one_query_1m_s", "<=", 1.1),
    ("index, bytes / FAISS flat's", "search_index_bytes", "faiss_flat_index_bytes", "<=", 0.6),
    ("load of an export, time / imports alone", "load_export_s", "import_jax_flax_tokenizers_s", "<=", 1.3),
    ("second `vacsr search`, seconds", "search_command_second_run_s", None, "<=", 4.0),
    ("bfloat16 model, rate / float32's", "bfloat16_model_pairs_per_s", "tile_pairs_per_s", ">=", 0.95),
]


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


# Parts. Each gets the folder that `prepare` filled and the sizes, and returns numbers by name.


def prepare(folder: Path, sizes: dict[str, Any]) -> Numbers:
    """Writes photographs of COCO's size, a text file, and exports of the preset and of the tiny model."""
    import dataclasses

    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict

    from vacsr_jax.data.tokenizer import train_tokenizer
    from vacsr_jax.image_text import ImageTextModel, param_shapes
    from vacsr_jax.pair.cosine import CosineModel
    from vacsr_jax.pretrained import Pretrained
    from vacsr_jax.towers.presets import PRESETS

    (folder / "pictures").mkdir()
    for i in range(sizes["pictures"]):
        photograph(i).save(folder / "pictures" / f"{i:06}.jpg", quality=90)
    (folder / "texts.txt").write_text("\n".join([QUERY, "a dog", "two cats on a sofa"]))
    rng = np.random.default_rng(0)

    def value(name: str, leaf: Any) -> np.ndarray:
        if name.endswith(("scale", "bias")):
            return np.full(leaf.shape, name.endswith("/scale"), np.float32)
        return 0.02 * rng.standard_normal(leaf.shape, np.float32)

    for name, preset in (("model", sizes["preset"]), ("tiny", "tiny")):
        config = PRESETS[preset]
        tokenizer = train_tokenizer([QUERY] * 2, vocab_size=300, context_length=config.text.context_length)
        ids = {key: getattr(tokenizer, key) for key in ("start_id", "end_id", "pad_id")}
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, **ids))
        model = ImageTextModel(config, CosineModel(None))
        flat = {key: value(key, leaf) for key, leaf in flatten_dict(param_shapes(model), sep="/").items()}
        Pretrained(model, jax.tree.map(np.asarray, unflatten_dict(flat, sep="/")), tokenizer).save(folder / name)
    return {}


def photograph(seed: int, width: int = 640, height: int = 480) -> Image.Image:
    """A picture of COCO's size that takes a photograph's bytes (about 130 kB at quality 90): soft colours and noise."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8))
    pixels = np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC)) + rng.normal(0, 12, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode(folder: Path, sizes: dict[str, Any]) -> Numbers:
    """One text, one image and a batch through the towers; one thread."""
    from experiments.benchmarks import torch_peers
    from vacsr_jax import load

    model = load(folder / "model")
    side = model.model.towers_config.vision.image_size
    images = np.random.default_rng(1).integers(0, 256, (sizes["batch"], side, side, 3), np.uint8)
    tokens = model.tokenizer([QUERY])
    tokens = tokens[:, : int((tokens[0] == model.tokenizer.end_id).argmax()) + 1]
    calls = {
        "encode_one_text_s": lambda: model.encode_texts([QUERY]),
        "encode_one_image_s": lambda: model.encode_images(images[:1]),
        "batch": lambda: model.encode_images(images),
    }
    peers: dict[str, Callable | None] = dict.fromkeys(f"torch_{name}" for name in calls)
    if installed("torch"):
        import torch

        torch.set_num_threads(1)
        encode_images, encode_texts = torch_peers.clip(model.params["towers"], model.model.towers_config)
        for ours, theirs in (
            (calls["encode_one_text_s"](), encode_texts(tokens)),
            (model.encode_images(images[:2]), encode_images(images[:2])),
        ):
            np.testing.assert_allclose(cosine(ours, theirs), 1, atol=1e-4)
        peers["torch_encode_one_text_s"] = lambda: encode_texts(tokens)
        peers["torch_encode_one_image_s"] = lambda: encode_images(images[:1])
        peers["torch_batch"] = lambda: encode_images(images)
    present = {name: call for name, call in (calls | peers).items() if call is not None}
    small = {name: call for name, call in present.items() if "batch" not in name}
    found = best_seconds(small, 3 * sizes["rounds"], clock=time.process_time)
    large = {name: call for name, call in present.items() if "batch" in name}
    found |= best_seconds(large, 1, clock=time.process_time)  # a call takes half a minute
    numbers = {name: found.get(name) for name in [*calls, *peers]}
    for name in ("", "torch_"):
        seconds = numbers.pop(f"{name}batch")
        numbers[f"{name}encode_256_images_per_s"] = seconds and sizes["batch"] / seconds
    return numbers


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def bulk(folder: Path, sizes: dict[str, Any]) -> Numbers:
    """A folder of files to embeddings, and its two halves; all cores."""
    import jax

    from vacsr_jax import load
    from vacsr_jax.data.decoding import decode_image

    model, files = load(folder / "model"), photographs(folder)
    pixels = np.stack([model.preprocess(decode_image(file)) for file in files])

    def decode() -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda file: model.preprocess(decode_image(file)), files))

    jax.block_until_ready(model.encode_images(pixels[:1]))
    calls = {"encode": lambda: model.encode_images(pixels), "embed": lambda: model.encode_images(files)}
    found = best_seconds({"decode": decode}, sizes["rounds"]) | best_seconds(calls, 1)
    rates = {name: len(files) / seconds for name, seconds in found.items()}
    return {
        "decode_images_per_s": rates["decode"],
        "all_cores_encode_images_per_s": rates["encode"],
        "embed_images_per_s": rates["embed"],
        "embed_bound_per_s": min(rates["decode"], rates["encode"]),
    }


def photographs(folder: Path) -> list[Path]:
    return sorted((folder / "pictures").iterdir())


def training_batches(files: list[Path], kind: str, **how: int) -> Iterator:
    from vacsr_jax.data.augment import Augmentation
    from vacsr_jax.data.captions.source import CaptionSource
    from vacsr_jax.data.loader import Pairs, batches

    n = len(files)
    source = CaptionSource([file.name for file in files], [(QUERY,)] * n, [(i,) for i in range(n)], files, {})
    augmentation = Augmentation(kind, 224, "crop", 0.0, 3, (4, 300), 2, 0)
    pairs = Pairs(source, np.ones((n, 8), np.int32), np.arange(n), augmentation=augmentation)
    return batches(pairs, batch_size=LOADED, seed=0, **how)


def loader(folder: Path, sizes: dict[str, Any]) -> Numbers:
    """Augmented training images a second of one core, without threads or workers."""
    from experiments.benchmarks import torch_peers

    files, contenders = photographs(folder), {}
    for kind, name in (("clip", ""), ("pcmepp", "pcmepp_")):
        contenders[f"loader_{name}images_per_s"] = training_batches(files, kind, threads=0)
        for how, normalized in (("", False), ("normalized_", True)):
            peer = functools.partial(torch_peers.loader, files, kind, 224, LOADED, normalized=normalized)
            contenders[f"torch_loader_{name}{how}images_per_s"] = peer() if installed("torch", "torchvision") else None
    return rates(contenders, sizes["rounds"], time.process_time)


def loader_in_parallel(folder: Path, sizes: dict[str, Any]) -> Numbers:
    """The same with two threads or two worker processes, on all cores, CLIP's augmentation."""
    from experiments.benchmarks import torch_peers

    files = photographs(folder)
    torch = installed("torch", "torchvision")
    contenders = {
        "torch_loader_workers_images_per_s": lambda: torch_peers.loader(files, "clip", 224, LOADED, workers=WORKERS),
        "loader_threads_images_per_s": lambda: training_batches(files, "clip", threads=WORKERS),
        "loader_workers_images_per_s": lambda: training_batches(files, "clip", threads=1, workers=WORKERS),
    }
    found: Numbers = dict.fromkeys(contenders)
    for _ in range(2):
        for name, start in contenders.items():  # one after the other: each prepares batches while it is not asked
            if torch or not name.startswith("torch"):
                batches = start()
                found[name] = max(found[name] or 0, steady_rate(batches))
                getattr(batches, "close", lambda: None)()
                del batches  # ends PyTorch's workers
    return found


def steady_rate(batches: Iterator, skipped: int = 8, counted: int = 16) -> float:
    for _ in range(skipped):  # more than are prepared in advance
        next(batches)
    begun = time.perf_counter()
    for _ in range(counted):
        next(batches)
    return counted * LOADED / (time.perf_counter() - begun)


def rates(contenders: dict[str, Iterator | None], rounds: int, clock: Callable[[], float]) -> Numbers:
    present = {name: functools.partial(next, batches) for name, batches in contenders.items() if batches is not None}
    found = best_seconds(present, rounds, clock=clock)
    return {name: LOADED / found[name] if name in found else None for name in contenders}


def pairs(folder: Path, sizes: dict[str, Any]) -> Numbers:
    """Pairs of a tile and of lists, and a bfloat16 model's in the precision chosen for this machine; one thread."""
    import jax.numpy as jnp

    from experiments.benchmarks.pair_scoring import adapter_of, embeddings
    from vacsr_jax.ops.precision import product_dtype
    from vacsr_jax.scoring.pairs import score_all, score_candidates

    adapter, params = adapter_of(sizes["adapter_dim"])
    scorer = adapter.apply({"params": params}, method="scorer").for_ranking()
    chosen = scorer.in_precision(product_dtype(jnp.bfloat16))
    n, m = sizes["pairs"]
    images, texts = (embeddings(count, sizes["adapter_dim"], seed) for seed, count in ((1, n), (2, m)))
    listed = np.stack([np.random.default_rng(i).permutation(m) for i in range(n)])
    calls = {
        "tile_pairs_per_s": lambda: score_all(scorer, images, texts).logit,
        "listed_pairs_per_s": lambda: score_candidates(scorer, images, texts, listed).logit,
        "bfloat16_model_pairs_per_s": lambda: score_all(chosen, images, texts).logit,
    }
    found = best_seconds(calls, sizes["rounds"], clock=time.process_time)
    return {name: n * m / seconds for name, seconds in found.items()}


def search(folder: Path, sizes: dict[str, Any]) -> Numbers:
    """The best ten of a million vectors for one query, half of them of each modality; one thread."""
    from vacsr_jax.search.index import MixedIndex
    from vacsr_jax.search.standardize import ranking

    rng, n, dim = np.random.default_rng(0), sizes["documents"], sizes["dim"]
    index = MixedIndex()
    stores = {"search_one_query_1m_s": index.store, "faiss_flat_one_query_1m_s": None}
    adders = [index.add]
    if installed("faiss"):
        from vacsr_jax.search.stores import FaissStore

        stores["faiss_flat_one_query_1m_s"] = flat = FaissStore()
        adders.append(flat.add)
    for i, start in enumerate(range(0, n, 1 << 14)):
        vectors = rng.standard_normal((min(1 << 14, n - start), dim), np.float32)
        for add in adders:
            add(vectors, [str(start + j) for j in range(len(vectors))], ("image", "text")[i % 2])
    queries = rng.standard_normal((8, dim), np.float32)
    calls = {
        name: functools.partial(ranking.search, store, ranking.fit(store, queries), queries[:1], 10)
        for name, store in stores.items()
        if store is not None
    }
    found = best_seconds(calls, 2 * sizes["rounds"], clock=time.process_time)
    return {name: found.get(name) for name in stores} | {
        "search_index_bytes": index.store.nbytes,
        "faiss_flat_index_bytes": 4 * n * dim,
    }


PARTS = {  # name: function, and whether it has one core
    "prepare": (prepare, False),
    "encode": (encode, True),
    "bulk": (bulk, False),
    "loader": (loader, True),
    "loader_in_parallel": (loader_in_parallel, False),
    "pairs": (pairs, True),
    "search": (search, True),
}


def start(folder: Path, rounds: int) -> Numbers:
    """Seconds from an empty process to a loaded export, beside its imports alone."""
    programs = {
        "load_export_s": f"import vacsr_jax; vacsr_jax.load({str(folder / 'tiny')!r})",
        "import_jax_flax_tokenizers_s": "import jax, flax.linen, tokenizers",
    }
    calls = {
        name: functools.partial(subprocess.run, [sys.executable, "-c", x], check=True) for name, x in programs.items()
    }
    return best_seconds(calls, rounds)


def search_command(folder: Path) -> Numbers:
    """`vacsr index`, then `vacsr search` twice: seconds of the second, a process each."""
    texts, out = folder / "texts.txt", folder / "index"
    command = [sys.executable, "-c", "from vacsr_jax.main import main; main()"]
    run = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    run([*command, "index", f"--model={folder / 'model'}", f"--texts={texts}", f"--out={out}"])
    numbers = {}
    for which in ("first", "second"):
        begun, used = time.perf_counter(), cpu_of_children()
        run([*command, "search", f"--index={out}", f"--text={QUERY}", "--k=2"])
        numbers[f"search_command_{which}_run_s"] = time.perf_counter() - begun
        numbers[f"search_command_{which}_run_cpu_s"] = cpu_of_children() - used
    return numbers


def cpu_of_children() -> float:
    """Seconds that ended processes of this one have computed: on a busy machine, what the clock cannot say."""
    times = os.times()
    return times.children_user + times.children_system


def in_own_process(name: str, folder: Path, sizes: dict[str, Any]) -> Numbers:
    alone = PARTS[name][1]
    command = [sys.executable, "-m", "experiments.benchmarks.everyday", f"--part={name}", f"--folder={folder}"]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, f"--sizes={json.dumps(sizes)}"],
        env=os.environ | (ONE_THREAD if alone else {}),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(sizes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in PARTS:
            found |= in_own_process(part, folder, sizes)
        found |= start(folder, sizes["rounds"])
        found |= search_command(folder)
    return found


def table(found: dict[str, Any]) -> str:
    """The ratios and their goals, then every number."""
    rows = []
    for name, top, bottom, side, goal in GOALS:
        if found[top] is None or (bottom and found[bottom] is None):
            rows.append([name, "not run", f"{side} {goal}", ""])
            continue
        ratio = found[top] / (found[bottom] if bottom else 1)
        met = ratio <= goal if side == "<=" else ratio >= goal
        rows.append([name, f"{ratio:.2f}", f"{side} {goal}", "met" if met else "missed"])
    numbers = [[name, "null" if x is None else f"{x:,.4g}"] for name, x in found.items() if name != "machine"]
    ratios = format_table(rows, ["ratio", "found", "goal", ""])
    return f"{found['machine']}\n{ratios}\n\n{format_table(numbers, ['number', 'value'])}"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.everyday", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", default="everyday.json", help="JSON file of the numbers")
    parser.add_argument("--sizes", default="{}", help="JSON object that replaces some of the sizes; for trials")
    parser.add_argument(
        "--part", choices=PARTS, help="measure only this part, in this process; for the program's own use"
    )
    parser.add_argument("--folder", help="of the part")
    options = parser.parse_args(arguments)
    sizes = SIZES | json.loads(options.sizes)
    if options.part:
        function, alone = PARTS[options.part]
        if alone:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # must precede JAX's start
        numbers = function(Path(options.folder), sizes)
        print(json.dumps(numbers), flush=True)
        return numbers
    found = report(sizes)
    write_text(Path(options.out), to_json(found))
    print(table(found))
    return found


if __name__ == "__main__":
    main()
