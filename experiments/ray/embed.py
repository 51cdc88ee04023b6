"""`vacsr embed --out=FOLDER` on a Ray cluster: each actor of Ray Data loads the model once and writes parts.

    pip install -e ".[ray]"
    python -m experiments.ray.embed --model=runs/scenes --images=my_pictures --out=embedded --workers=2

The folder is the one that `vacsr embed` writes, file by file, and either may finish what the other began.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vacsr_jax.cli.embed import PART_SIZE, embed_parts, find_inputs
from vacsr_jax.data import embedding_parts

PARTS_A_CALL = 4  # within a call, the pictures of the next part are decoded while one is computed


class Embed:
    """An actor: embeds the parts that it is told, and writes each when it is done."""

    def __init__(self, model: str, images: str | None, texts: str | None, out: str, job: embedding_parts.Job):
        from vacsr_jax.pretrained import load

        self.model, self.inputs, self.job, self.out = load(model), find_inputs(images, texts), job, Path(out)
        if self.inputs.job(self.model.fingerprint(), part_size=job.part_size, draft=job.draft) != job:
            raise ValueError(f"this machine has another model or other inputs than the one that began {out}")

    def __call__(self, batch: dict) -> dict:
        counts = []
        for part in embed_parts(self.model, self.inputs, self.job, [int(i) for i in batch["part"]]):
            embedding_parts.write_part(self.out, part.number, self.job, part.vectors, part.ids)
            counts.append(len(part.ids))
        return {"part": batch["part"], "embedded": counts}


def embed(model: str, images: str | None, texts: str | None, out: str, *, workers: int, part_size: int, **actor) -> int:
    """Embeds what is not there yet; returns the number of new embeddings.

    Args:
      actor: what each worker needs, for `map_batches`: num_cpus, num_gpus.
    """
    import ray.data

    from vacsr_jax.pretrained import load

    job = find_inputs(images, texts).job(load(model).fingerprint(), part_size=part_size)
    embedding_parts.open_folder(Path(out), job)
    everything = list(range(len(job)))
    left = sorted(set(everything) - set(embedding_parts.finished(Path(out), job, everything)))
    if not left:
        return 0
    parts = ray.data.from_items([{"part": i} for i in left], override_num_blocks=-(-len(left) // PARTS_A_CALL))
    done = parts.map_batches(
        Embed,
        fn_constructor_args=(model, images, texts, out, job),
        batch_size=PARTS_A_CALL,
        compute=ray.data.ActorPoolStrategy(size=workers),
        **actor,
    )
    return sum(row["embedded"] for row in done.iter_rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images")
    parser.add_argument("--texts")
    parser.add_argument("--out", required=True, help="a folder that all machines share")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--part_size", type=int, default=PART_SIZE)
    parser.add_argument("--num_cpus", type=float, default=1, help="of a worker; its decoding threads use them")
    parser.add_argument("--num_gpus", type=float, default=0, help="of a worker")
    options = vars(parser.parse_args())
    print(f"{options['out']}: {embed(**options)} embeddings")


if __name__ == "__main__":
    main()
