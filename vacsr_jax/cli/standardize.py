"""`vacsr standardize fit | apply | diagnose | compare`: mixed search with the embeddings of any model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vacsr_jax.cli.index import projecting
from vacsr_jax.cli.verbs import Verbs

FILES = """
Both files are npz with embeddings [n, d] of any model, and ids [n] and modality [n] as strings, or folders that
`vacsr embed` wrote. An npz of queries may have exclude [n]: ids of documents, separated by spaces, that a query must
not find. A document with the query's own id and modality is not found either, unless it is the answer."""

FIT_EXAMPLE = f"""example:
  vacsr standardize fit --queries=q.npz --documents=d.npz --out=stats.json
  vacsr standardize fit --queries=q.npz --documents=d.npz --labelled --out=stats.json
{FILES}

No labels are needed: each query's best document of every modality counts as its match. Give 200 queries or more that
resemble future queries. Writes means, standard deviations, numbers of documents, and the model's id."""

APPLY_EXAMPLE = f"""example:
  vacsr standardize apply --stats=stats.json --queries=q.npz --documents=d.npz --k=20 --out=results.json
  vacsr standardize apply --stats=stats.json --queries=q.npz --documents=d.npz --fit=past_queries.npz --out=results.json
  vacsr standardize apply --stats=stats.json --queries=q.npz --documents=d.npz --prior=image=0.5 --out=results.json
{FILES}

Writes a list of {{"query": id, "results": [{{"id", "modality", "score", "z"}}, ...]}}, best first. The ranking is by z,
or with --fit by z minus how well the document fits queries in general."""

DIAGNOSE_EXAMPLE = f"""example:
  vacsr standardize diagnose --queries=q.npz --documents=d.npz --k=20 --out=diagnosis.png
{FILES}

Prints each modality's share of the top k before and after, its scale, and the gap between modalities. --out draws
shares and scores as a picture."""

COMPARE_EXAMPLE = f"""example:
  vacsr standardize compare --queries=q.npz --documents=d.npz --k=1,5,10,20 --out=table.json
  vacsr standardize compare --queries=q.npz --documents=d.npz --fit=other.npz --model=runs/scenes --out=table.json
{FILES}
Queries also have answers [n]: ids of documents, separated by spaces.

Writes {{method: {{"recall@20": {{"all": x, "<answer modality>": y, ..., "macro": z}}, ..., "ndcg@10": {{...}}}}}}.
Everything is fitted on the queries themselves, without their answers, unless --fit names other queries over the same
documents. Only `labelled` reads answers. vacsr_jax/search/standardize/fusion.py describes the methods."""


def register(verbs: Verbs) -> None:
    group = verbs.group("standardize", "Fair search over texts and images, with embeddings of any model.")
    fit = group.add("fit", run_fit, "Learn the scale of each modality from unlabelled queries.", FIT_EXAMPLE)
    apply = group.add("apply", run_apply, "Search documents with standardized scores.", APPLY_EXAMPLE)
    diagnose = group.add("diagnose", run_diagnose, "Show which modality fills the top k, and why.", DIAGNOSE_EXAMPLE)
    compare = group.add("compare", run_compare, "Compare the recall of all ways to mix modalities.", COMPARE_EXAMPLE)
    for verb in (fit, apply, diagnose, compare):
        verb.add_argument("--queries", metavar="NPZ", help="embeddings of queries", required=True)
        verb.add_argument("--documents", metavar="NPZ", help="embeddings of the documents to search", required=True)

    fit.add_argument("--out", help="JSON file for the statistics", required=True)
    fit.add_argument("--labelled", action="store_true", help="fit on the scores of the queries' answers instead")
    fit.add_argument("--mean_only", action="store_true", help="fit only the means; every standard deviation is 1")
    fit.add_argument(
        "--shrink",
        type=float,
        default=0.0,
        metavar="N",
        help="draw standard deviations together with the weight of N queries",
    )
    fit.add_argument("--model_id", default="", help="the model that made the embeddings; kept with the statistics")

    apply.add_argument("--stats", help="JSON file that fit wrote", required=True)
    apply.add_argument("--k", type=int, default=20, help="results for each query (default: 20)")
    apply.add_argument("--fit", metavar="NPZ", help="unlabelled queries: rank by the inverted softmax over them")
    apply.add_argument(
        "--prior", default="", metavar="NAME=X,...", help="added to the z of a modality, to show more or less of it"
    )
    apply.add_argument(
        "--model_id", default=None, help="the model that made the embeddings; an error if the statistics are of another"
    )
    apply.add_argument("--out", help="JSON file for the results", required=True)

    diagnose.add_argument("--stats", help="JSON file that fit wrote (default: fit on these queries)")
    diagnose.add_argument("--k", type=int, default=20, help="length of the ranking (default: 20)")
    diagnose.add_argument("--out", help="file for the picture: png, svg or pdf")

    compare.add_argument("--fit", metavar="NPZ", help="other queries to fit on")
    compare.add_argument(
        "--model", help="the model that made the embeddings, or one on embeddings; adds its match score"
    )
    compare.add_argument("--k", default="1,5,10,20", help="numbers separated by commas (default: 1,5,10,20)")
    compare.add_argument("--out", help="JSON file for the table")


def run_fit(options: argparse.Namespace, overrides: list[str]) -> None:
    import dataclasses

    from vacsr_jax.search.standardize import statistics
    from vacsr_jax.search.standardize.problem import cautions, fit, fit_labelled

    problem = read_problem(options.queries, options.documents, with_answers=options.labelled)
    if options.labelled and not (problem.answers >= 0).any():
        raise ValueError(f"--labelled: {options.queries} has no answers; add them, or fit without labels")
    stats = fit_labelled(problem) if options.labelled else fit(problem)
    if not options.shrink >= 0:
        raise ValueError(f"--shrink: got {options.shrink}, expected 0 or more")
    stats = statistics.shrink(stats, options.shrink) if options.shrink else stats
    stats = statistics.mean_only(stats) if options.mean_only else stats
    note(cautions(problem, stats))
    statistics.save(dataclasses.replace(stats, model_id=options.model_id), options.out)
    print(scale_table(stats))


def run_apply(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.data.embeddings import read_embeddings
    from vacsr_jax.search.standardize import fusion, statistics
    from vacsr_jax.search.standardize.problem import best_candidates, cautions, make_problem, z_scores

    stats = statistics.load(options.stats)
    if options.model_id is not None and options.model_id != stats.model_id:
        raise ValueError(
            f"{options.stats} is of model {stats.model_id!r}, not {options.model_id!r}; fit queries of this model"
        )
    queries, documents = read_embeddings(options.queries), read_embeddings(options.documents)
    names: dict[str, Any] = {"modalities": stats.modalities, "query_modalities": stats.query_modalities}
    problem, bias = make_problem(queries, documents, **names, with_answers=False), None
    note_files(documents, queries)
    note(cautions(problem, stats))
    if options.fit:
        others = make_problem(read_embeddings(options.fit), documents, **names, with_answers=False)
        bias = fusion.query_bias(z_scores(block, stats) for block in others.blocks())
    rows, scores, z = best_candidates(problem, stats, options.k, read_prior(options.prior), bias)
    results = [
        {
            "query": str(identity),
            "results": [
                {"id": str(documents.ids[r]), "modality": str(documents.modality[r]), "score": float(s), "z": float(x)}
                for r, s, x in zip(*found, strict=True)
                if r >= 0
            ],
        }
        for identity, *found in zip(queries.ids, rows, scores, z, strict=True)
    ]
    write_text(Path(options.out), to_json(results))
    kinds = documents.modality[rows[rows >= 0]]
    shares = ", ".join(f"{name} {(kinds == name).mean():.3f}" for name in stats.modalities)
    print(f"{options.out}: {len(results)} queries; shares of their best {rows.shape[1]}: {shares}")


def run_diagnose(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.report.tables import format_table
    from vacsr_jax.search.standardize import statistics
    from vacsr_jax.search.standardize.problem import cautions, fit

    stats = statistics.load(options.stats) if options.stats else None
    problem = read_problem(options.queries, options.documents, like=stats)
    stats = fit(problem) if stats is None else stats
    note(cautions(problem, stats))
    found = problem.diagnose(stats, options.k)
    print(format_table(*found.rows()))
    for (a, b), gap in found.gap.items():
        print(f"\ngap between {a} and {b}: {gap:.3f}, the distance between the means of their unit vectors (0 to 2)")
    if options.out:
        found.plot(options.out)


def run_compare(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.evaluation.mixed_search import match_by
    from vacsr_jax.report.tables import format_table
    from vacsr_jax.search.standardize.compare import compare, table_rows

    ks = read_numbers(options.k)
    match = model = None
    if options.model:
        from vacsr_jax import load

        model = load(options.model)
        match = match_by(model.model, model.params)
    problem, fit_on = read_problems(options.queries, options.fit, options.documents, projecting(model))
    table = compare(problem, ks, fit_on=fit_on, match=match)
    if options.out:
        write_text(Path(options.out), to_json(table))
    print(format_table(*table_rows(table)))


# Reading the files and options.


def read_problem(queries: str, documents: str, like=None, with_answers: bool = False):
    """Reads the retrieval problem of two files, with the modalities of the statistics `like`; prints notes."""
    from vacsr_jax.data.embeddings import read_embeddings
    from vacsr_jax.search.standardize.problem import make_problem

    asked, searched = (read_embeddings(path) for path in (queries, documents))
    note_files(searched, asked)
    names = {} if like is None else {"modalities": like.modalities, "query_modalities": like.query_modalities}
    return make_problem(asked, searched, with_answers=with_answers, **names)


def read_problems(queries: str, fit: str | None, documents: str, project):
    """Reads the problem to evaluate, and that of the fit queries (or None), over the same documents, numbered alike.

    `project` is what the model does to embeddings (`cli.index.projecting`).
    """
    from vacsr_jax.data.embeddings import read_embeddings
    from vacsr_jax.search.standardize.problem import make_problem

    paths = [path for path in (queries, fit) if path]
    searched, *asked = (project(read_embeddings(path)) for path in (documents, *paths))
    note_files(searched, *asked)
    names = sorted({name for file in asked for name in file.modality.tolist()})
    problems = [make_problem(file, searched, query_modalities=names) for file in asked]
    return problems[0], problems[1] if fit else None


def read_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--k: got {text!r}, expected whole numbers separated by commas") from None


def read_prior(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    try:
        return {name: float(value) for name, _, value in pairs}
    except ValueError:
        raise ValueError(f"--prior: got {text!r}, expected NAME=NUMBER, separated by commas") from None


def note_files(documents, *asked) -> None:
    """Prints what was changed in the files, and which excluded ids match no document."""
    from vacsr_jax.data.embeddings import unknown_ids

    note(line for file in (documents, *asked) for line in file.notes)
    for file in asked:
        unknown = unknown_ids(file.exclude or (), documents)
        if unknown:
            note(
                [f"exclude: {len(unknown)} ids are not among the documents and exclude nothing, such as {unknown[:3]}"]
            )


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
    columns = ["query", "modality", "fit queries", "documents", "mean of best", "std of best"]
    return format_table(rows, columns, digits=4)
