"""`vacsr standardize fit | apply | diagnose | compare`: mixed search with the embeddings of any model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FILES = """
Both files are npz: embeddings [n, d] of any model, ids [n] and modality [n] of strings. Queries may have exclude [n]:
ids of the bank, separated by spaces, that are no candidates of a query; a document with the query's own id and
modality is none anyway, unless it is its answer."""

FIT_EXAMPLE = f"""example:
  vacsr standardize fit --queries=q.npz --bank=b.npz --out=stats.json
  vacsr standardize fit --queries=q.npz --bank=b.npz --labelled --out=stats.json
{FILES}

No labels are needed: each query's best candidate of every modality is taken for its match. 200 queries or more that
resemble those to come. Writes means, spreads, pool sizes and the model's id."""

APPLY_EXAMPLE = f"""example:
  vacsr standardize apply --stats=stats.json --queries=q.npz --bank=b.npz --k=20 --out=results.json
  vacsr standardize apply --stats=stats.json --queries=q.npz --bank=b.npz --fit=past_queries.npz --out=results.json
  vacsr standardize apply --stats=stats.json --queries=q.npz --bank=b.npz --prior=image=0.5 --out=results.json
{FILES}

Writes a list of {{"query": id, "results": [{{"id", "modality", "score", "z"}}, ...]}}, best first: by z, or with --fit
by z minus what the candidate has for queries in general."""

DIAGNOSE_EXAMPLE = f"""example:
  vacsr standardize diagnose --queries=q.npz --bank=b.npz --k=20 --out=diagnosis.png
{FILES}

Prints each modality's share of the top k before and after, its scale and the gap; draws them into a picture."""

COMPARE_EXAMPLE = f"""example:
  vacsr standardize compare --queries=q.npz --bank=b.npz --k=1,5,10,20 --out=table.json
  vacsr standardize compare --queries=q.npz --bank=b.npz --fit=other_queries.npz --model=runs/scenes --out=table.json
{FILES}
Queries also have answers [n]: ids of the bank, separated by spaces.

Writes {{method: {{"recall@20": {{"all": x, "<answer modality>": y, ..., "macro": z}}, ..., "ndcg@10": {{...}}}}}}.
Everything is fitted on the judged queries, without their answers, unless --fit names others over the same bank; only
`labelled` reads answers. vacsr_jax/search/fusion.py says what the methods are."""


def register(verbs) -> None:
    group = verbs.group("standardize", "Fair search over texts and images, with embeddings of any model.")
    fit = group.add("fit", run_fit, "Learn the scale of each modality from unlabelled queries.", FIT_EXAMPLE)
    apply = group.add("apply", run_apply, "Search a bank with standardized scores.", APPLY_EXAMPLE)
    diagnose = group.add("diagnose", run_diagnose, "Which modality fills the top k, and why.", DIAGNOSE_EXAMPLE)
    compare = group.add("compare", run_compare, "Recall of every way of mixing modalities.", COMPARE_EXAMPLE)
    for verb in (fit, apply, diagnose, compare):
        verb.add_argument("--queries", metavar="NPZ", required=True)
        verb.add_argument("--bank", metavar="NPZ", required=True)

    fit.add_argument("--out", help="JSON file for the statistics", required=True)
    fit.add_argument("--labelled", action="store_true", help="from the scores of the queries' answers instead")
    fit.add_argument("--mean_only", action="store_true", help="keep the means alone; every spread is 1")
    fit.add_argument("--shrink", type=float, default=0.0, metavar="N", help="draw spreads together as N queries would")
    fit.add_argument("--model_id", default="", help="what made the embeddings; kept with the statistics")

    apply.add_argument("--stats", help="JSON file that fit wrote", required=True)
    apply.add_argument("--k", type=int, default=20, help="results of each query (default: 20)")
    apply.add_argument("--fit", metavar="NPZ", help="unlabelled queries: rank by the inverted softmax over them")
    apply.add_argument("--prior", default="", metavar="NAME=X,...", help="added to a modality's z: more of it, or less")
    apply.add_argument(
        "--model_id", default=None, help="what made the embeddings; another than the statistics' is refused"
    )
    apply.add_argument("--out", help="JSON file for the results", required=True)

    diagnose.add_argument("--stats", help="JSON file that fit wrote; default: fitted on these queries")
    diagnose.add_argument("--k", type=int, default=20, help="length of the ranking (default: 20)")
    diagnose.add_argument("--out", help="picture: png, svg or pdf")

    compare.add_argument("--fit", metavar="NPZ", help="other queries to fit on")
    compare.add_argument("--model", help="a trained model whose match score joins; it made the embeddings")
    compare.add_argument("--k", default="1,5,10,20", help="numbers, with commas between (default: 1,5,10,20)")
    compare.add_argument("--out", help="JSON file for the table")


def run_fit(options: argparse.Namespace, overrides: list[str]) -> None:
    import dataclasses

    from vacsr_jax.evaluation.mixed_problem import cautions, fit, fit_labelled
    from vacsr_jax.search import standardization

    problem = read_problem(options.queries, options.bank, with_answers=options.labelled)
    if options.labelled and not (problem.answers >= 0).any():
        raise ValueError(f"--labelled: {options.queries} has no answers")
    stats = fit_labelled(problem) if options.labelled else fit(problem)
    if not options.shrink >= 0:
        raise ValueError(f"--shrink: got {options.shrink}, expected 0 or more")
    stats = standardization.shrink(stats, options.shrink) if options.shrink else stats
    stats = standardization.mean_only(stats) if options.mean_only else stats
    note(cautions(problem, stats))
    standardization.save(dataclasses.replace(stats, model_id=options.model_id), options.out)
    print(scale_table(stats))


def run_apply(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.data.embeddings import read_embeddings
    from vacsr_jax.evaluation.mixed_problem import best_candidates, cautions, make_problem, z_scores
    from vacsr_jax.search import fusion, standardization

    stats = standardization.load(options.stats)
    if options.model_id is not None and options.model_id != stats.model_id:
        raise ValueError(
            f"{options.stats} is of model {stats.model_id!r}, not {options.model_id!r}; fit this model's own"
        )
    queries, bank = read_embeddings(options.queries), read_embeddings(options.bank)
    names = {"modalities": stats.modalities, "query_modalities": stats.query_modalities, "with_answers": False}
    problem, bias = make_problem(queries, bank, **names), None
    note_files(bank, queries)
    note(cautions(problem, stats))
    if options.fit:
        others = make_problem(read_embeddings(options.fit), bank, **names)
        bias = fusion.query_bias(z_scores(block, stats) for block in others.blocks())
    rows, scores, z = best_candidates(problem, stats, options.k, read_prior(options.prior), bias)
    results = [
        {
            "query": str(identity),
            "results": [
                {"id": str(bank.ids[r]), "modality": str(bank.modality[r]), "score": float(s), "z": float(x)}
                for r, s, x in zip(*found, strict=True)
                if r >= 0
            ],
        }
        for identity, *found in zip(queries.ids, rows, scores, z, strict=True)
    ]
    write_text(Path(options.out), to_json(results))
    kinds = bank.modality[rows[rows >= 0]]
    shares = ", ".join(f"{name} {(kinds == name).mean():.3f}" for name in stats.modalities)
    print(f"{options.out}: {len(results)} queries; shares of their best {rows.shape[1]}: {shares}")


def run_diagnose(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.evaluation.mixed_diagnosis import diagnose
    from vacsr_jax.evaluation.mixed_problem import cautions, fit
    from vacsr_jax.report.tables import format_table
    from vacsr_jax.search import standardization

    stats = standardization.load(options.stats) if options.stats else None
    problem = read_problem(options.queries, options.bank, like=stats)
    stats = fit(problem) if stats is None else stats
    note(cautions(problem, stats))
    found = diagnose(problem, stats, options.k)
    print(format_table(*found.rows()))
    for (a, b), gap in found.gap.items():
        print(f"\ngap between {a} and {b}: {gap:.3f}, the distance of the means of their unit vectors (0 to 2)")
    if options.out:
        found.plot(options.out)


def run_compare(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.evaluation.mixed_search import compare, match_by, table_rows
    from vacsr_jax.report.tables import format_table

    ks = read_numbers(options.k)
    match = None
    if options.model:
        from vacsr_jax import load

        model = load(options.model)
        match = match_by(model.model, model.params)
    problem, fit_on = read_problems(options.queries, options.fit, options.bank)
    table = compare(problem, ks, fit_on=fit_on, match=match)
    if options.out:
        write_text(Path(options.out), to_json(table))
    print(format_table(*table_rows(table)))


# Reading what was given.


def read_problem(queries: str, bank: str, like=None, with_answers: bool = False):
    """The problem of two files, with the modalities of statistics `like`; notes go to the terminal."""
    from vacsr_jax.data.embeddings import read_embeddings
    from vacsr_jax.evaluation.mixed_problem import make_problem

    files = [read_embeddings(path) for path in (queries, bank)]
    note_files(files[1], files[0])
    names = {} if like is None else {"modalities": like.modalities, "query_modalities": like.query_modalities}
    return make_problem(*files, with_answers=with_answers, **names)


def read_problems(queries: str, fit: str | None, bank: str):
    """The judged problem, and that of the fit queries (or None) over the same bank, numbered alike."""
    from vacsr_jax.data.embeddings import read_embeddings
    from vacsr_jax.evaluation.mixed_problem import make_problem

    paths = [path for path in (queries, fit) if path]
    documents, *asked = (read_embeddings(path) for path in (bank, *paths))
    note_files(documents, *asked)
    names = sorted({name for file in asked for name in file.modality.tolist()})
    problems = [make_problem(file, documents, query_modalities=names) for file in asked]
    return problems[0], problems[1] if fit else None


def read_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--k: got {text!r}, expected whole numbers with commas between") from None


def read_prior(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    try:
        return {name: float(value) for name, _, value in pairs}
    except ValueError:
        raise ValueError(f"--prior: got {text!r}, expected NAME=NUMBER with commas between") from None


def note_files(bank, *asked) -> None:
    """Says what was mended in the files, and which exclusions exclude nothing."""
    from vacsr_jax.data.embeddings import not_in_bank

    note(line for file in (bank, *asked) for line in file.notes)
    for file in asked:
        unknown = not_in_bank(file.exclude or (), bank)
        if unknown:
            note([f"exclude: {len(unknown)} ids are not in the bank, so they exclude nothing; the first {unknown[:3]}"])


def note(lines) -> None:
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def scale_table(stats) -> str:
    from vacsr_jax.report.tables import format_table

    rows = [
        [query, name, int(stats.count[i, j]), stats.pool_sizes[j]]
        + [
            (float(x[i, j]), float(e[i, j]))
            for x, e in ((stats.mean, stats.standard_error_mean), (stats.std, stats.standard_error_std))
        ]
        for i, query in enumerate(stats.query_modalities)
        for j, name in enumerate(stats.modalities)
    ]
    return format_table(rows, ["query", "candidates", "fit queries", "pool", "mean of best", "std of best"], digits=4)
