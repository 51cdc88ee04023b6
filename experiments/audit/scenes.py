"""Audits of scenes, where the truth of every pair is known, by models of clean and of wrong labels."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from scipy.special import expit, logsumexp

from experiments.audit import rivals
from experiments.audit.measure import FIRST, interval, judged, mean_and_spread, of_labels, of_matches
from experiments.audit.trained import PROTOCOLS
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.audit.findings import share_of
from vacsr_jax.audit.judge import Judge, Labelled
from vacsr_jax.audit.label_model import fit_noise, label_share, right_logit, wrong_logit
from vacsr_jax.config_files import with_new_fields
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.noise import make_noise
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.pretrained import Pretrained, load
from vacsr_jax.report.tables import format_table
from vacsr_jax.scoring.model import prepare_scorer, score_pairs
from vacsr_jax.training.checkpoint import config_from_dict

SUM = 1000


def audit_models(folder: Path, out: Path) -> None:
    """Audits every export in `folder` that has no result in `out`."""
    for path in sorted(folder.iterdir()):
        result = out / f"{path.name}.json"
        if (path / "model.safetensors").exists() and not result.exists():
            write_text(result, to_json(audit_model(load(path))))
            print(path.name, flush=True)


def audit_model(model: Pretrained) -> dict:
    """Numbers of one model: held-out labels with its own share of wrong ones, and the labels that it was trained on.

    Every split is audited whole. On validation, the ways to rank unlabelled pairs are compared; the rest is the test
    split, whose labels are made wrong by each protocol.
    """
    config = with_new_fields(config_from_dict(model.config))
    about = {"method": config.method, "match": config.propensity.match, "places": config.tokens.places}
    about |= {"noise": config.data.noise, "protocol": config.data.noise_protocol, "seed": config.seed}
    about["steps"] = config.train.steps
    found = {"about": about, "noise_rate": model.noise_rate}
    found["validation"] = held_out(model, config, "validation", config.data.noise, config.data.noise_protocol)
    for protocol in PROTOCOLS if config.data.noise else PROTOCOLS[:1]:
        found[f"test, {protocol}"] = held_out(model, config, "test", config.data.noise, protocol)
    if about["method"] == "propensity":
        found["training labels"] = training_labels(model, config)
    return found


def held_out(model: Pretrained, config, split: str, noise: float, protocol: str) -> dict:
    """An audit of a split that the model was not trained on, with wrong labels put in."""
    source = open_split(config, split)
    image_of = make_noise(caption_pairs(source)[1], noise, protocol=protocol, seed=config.seed + 1000).index
    return beside_truth(model, config.method, source, source.relevance() == 1, image_of)


def beside_truth(model: Pretrained, method: str, source, matches: np.ndarray, image_of: np.ndarray) -> dict:
    """An audit of a source whose captions are labelled with `image_of` [m], where `matches` [n, m] are the truth."""
    truth = caption_pairs(source)[1]
    n, m = matches.shape
    place = (image_of, np.arange(m))
    wrong, untrue, free = image_of != truth, ~matches[place], np.ones((n, m), bool)
    free[place] = False
    judge = Judge(model, Labelled(source, image_of), np.arange(n))
    if method != "propensity":
        return by_scores(judge, method, wrong, untrue, matches, free)
    seen = judged(judge)
    images, texts = judge.image_items(np.arange(n)), judge.text_items(np.arange(m))
    of_model = score_pairs(model.model, model.params, images, texts)
    scores = {"p_match": seen["match"], **seen["scores"], "match score": of_model.by_match()}
    label_score = of_model.by_label().astype(np.float64)
    losses = {"sigmoid": rivals.sigmoid_loss, "softmax": rivals.infonce_loss}
    return {
        "labels": {
            "p_wrong": of_labels(seen["wrong"], wrong, untrue, expit(seen["wrong"])),
            "its label score": of_labels(-rivals.own(label_score, image_of), wrong, untrue),
            **{
                f"its {name} loss, mixture of two": of_labels(x, wrong, untrue, rivals.mixture(x))
                for name, x in ((name, loss(label_score, image_of)) for name, loss in losses.items())
            },
            **cleanlab_of(label_score, image_of, wrong, untrue),
        },
        "matches": {
            name: of_matches(x, matches, free, expit(x) if name == "p_match" else None) for name, x in scores.items()
        },
        "share": interval(seen["share"], float(wrong.mean())),
        "expected": interval(seen["expected"], float(matches[free].sum())),
        "chance": float(matches[free].mean()),
    }


def by_scores(judge: Judge, method: str, wrong, untrue, matches, free) -> dict:
    """The same of a model of the labels: its scores, its losses with a mixture of two, and cleanlab."""
    n, m = matches.shape
    images, texts = judge.image_items(np.arange(n)), judge.text_items(np.arange(m))
    logit = score_pairs(judge.trained.model, judge.trained.params, images, texts).logit.astype(np.float64)
    image_of = judge.data.image_of
    loss = {"sigmoid": rivals.sigmoid_loss, "infonce": rivals.infonce_loss}[method](logit, image_of)
    p = rivals.mixture(loss)
    labels = {
        "score": of_labels(-rivals.own(logit, image_of), wrong, untrue),
        "mixture of losses": of_labels(np.where(p > 0, np.log(p + 1e-300), -700), wrong, untrue, p),
    }
    labels |= cleanlab_of(logit, image_of, wrong, untrue)
    probability = expit(logit) if method == "sigmoid" else None
    return {"labels": labels, "matches": {"score": of_matches(logit, matches, free, probability)}}


def cleanlab_of(logit, image_of, wrong, untrue) -> dict:
    """cleanlab's two scores of the labels, {} without cleanlab."""
    found = rivals.cleanlab_scores(logit, image_of)
    return {f"cleanlab, {name}": of_labels(score, wrong, untrue) for name, score in found.items()}


def coverage(path: Path, out: Path, sets: int, noise: float = 0.2) -> None:
    """How often the intervals of one model hold the truth, over fresh sets of 500 scenes with new wrong labels."""
    result = out / f"{path.name}.json"
    if result.exists():
        return
    model = load(path)
    config, found = config_from_dict(model.config), []
    for seed in range(100, 100 + sets):
        drawn = config.copy_and_resolve_references()
        drawn.seed = seed
        audit = held_out(model, drawn, "test", noise, "caption")
        found.append({name: audit[name] for name in ("share", "expected")})
    write_text(result, to_json({"name": path.name, "noise": noise, "sets": found}))


def coverage_table(out: Path) -> str:
    """The intervals' coverage, and how far off the estimates were."""
    rows = []
    for file in sorted(out.glob("*.json")):
        result = json.loads(file.read_text())
        row = [result["name"].removeprefix("propensity-propensity."), f"{result['noise']:.0%}", len(result["sets"])]
        for name in ("share", "expected"):
            covered = [x[name]["covered"] for x in result["sets"]]
            off = [x[name]["estimate"] / x[name]["truth"] - 1 for x in result["sets"]]
            row += [f"{sum(covered)} of {len(covered)}", f"{np.mean(off):+.3f} ± {np.std(off, ddof=1):.3f}"]
        rows.append(row)
    head = ["model", "noise", "sets", "share covered", "share off by", "missing covered", "missing off by"]
    return f"## Intervals over fresh sets of scenes\n\n{format_table(rows, head, markdown=True)}"


def training_labels(model: Pretrained, config) -> dict:
    """The labels that the model was trained on, by itself."""
    source = open_split(config, "train")
    truth = caption_pairs(source)[1]
    noise, protocol = config.data.noise, config.data.noise_protocol
    image_of = make_noise(truth, noise, protocol=protocol, seed=config.seed).index
    p, share = label_posteriors(model, source, image_of)
    wrong = image_of != truth
    found = of_labels(p, wrong, wrong, expit(p))
    return {"labels": {"p_wrong": found}, "share": interval(share, float(wrong.mean()))}


def label_posteriors(model: Pretrained, source, image_of: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """logit p_wrong of every label, and the share of wrong labels.

    The sum over all images in p_wrong is that over `SUM` of them, drawn at random, in proportion.
    """
    n, m = len(source), len(image_of)
    judge = Judge(model, Labelled(source, image_of), np.arange(n))
    fitted = judge.fit()
    fitted = fitted.among(n)
    images, texts = judge.image_items(np.arange(n)), judge.text_items(np.arange(m))
    scorer = prepare_scorer(model.model, model.params)
    one = jax.jit(jax.vmap(lambda image, text: scorer.label_parts(*jax.tree.map(lambda x: x[None], (image, text)))))
    parts = [
        one(*(jax.tree.map(lambda x, at=at: x[at], items) for items, at in ((images, image_of[block]), (texts, block))))
        for block in np.array_split(np.arange(m), 20)
    ]
    a, h = (np.concatenate([np.asarray(part[k])[:, 0, 0] for part in parts]) for k in (0, 1))
    right = right_logit(fitted.theta, a, h)
    drawn = np.random.default_rng(0).permutation(n)[:SUM]
    others = [
        logsumexp(right_logit(fitted.theta, *judge.parts(jax.tree.map(lambda x: x[drawn], images), part)), axis=0)
        for part in (jax.tree.map(lambda x, at=at: x[at], texts) for at in np.array_split(np.arange(m), 30))
    ]
    total = np.logaddexp(right, np.concatenate(others) + np.log(n / len(drawn)))
    log_r = label_share(right, total)
    noise, error = fit_noise(log_r, n, image_of)
    share = share_of(noise, error, [fitted])
    return wrong_logit(noise, n, log_r), (share.value, share.low, share.high)


def tables(out: Path) -> str:
    """All tables of the results in `out`."""
    results = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        a = result["about"]
        kind = a["method"] if a["method"] != "propensity" else a["match"]
        kind += f", {a['places']}" if kind == "tokens" else ""
        groups.setdefault((a["noise"], kind, a["steps"], a["protocol"]), []).append(result)
    lines: dict[str, list[list]] = {name: [] for name in ("labels", "protocols", "matches", "which score", "counts")}
    for (noise, kind, steps, protocol), runs in sorted(groups.items()):
        head = [f"{noise:.0%}", kind, steps, protocol, len(runs)]
        test = [run["test, caption"] for run in runs]
        for name in test[0]["labels"]:
            names = ("AUROC", "AUROC, untrue", "AP", "precision", "first tenth", "ECE", "share")
            lines["labels"].append([*head, name, *(mean_and_spread(test, "labels", name, x) for x in names)])
        for key in sorted({key for run in runs for key in run if key.startswith("test, ") or key == "training labels"}):
            if kind in ("sigmoid", "infonce") or not noise:
                continue
            of = [run[key] for run in runs if key in run]
            shown = [mean_and_spread(of, "labels", "p_wrong", x) for x in ("AUROC", "ECE")]
            truth = [mean_and_spread(of, "share", x) for x in ("estimate", "truth")]
            lines["protocols"].append([*head, key.removeprefix("test, "), *shown, *truth])
        for name in test[0]["matches"]:
            names = [f"first {k}" for k in FIRST] + ["AP", "ECE"]
            lines["matches"].append([*head, name, *(mean_and_spread(test, "matches", name, x) for x in names)])
            chosen = [run["validation"] for run in runs]
            if len(test[0]["matches"]) > 1:
                names = names[:-1]
                shown = [mean_and_spread(chosen, "matches", name, x) for x in names]
                lines["which score"].append([*head, name, *shown])
        if "share" in test[0]:
            row = []
            for name in ("share", "expected"):
                covered = [run[name]["covered"] for run in test]
                row += [mean_and_spread(test, name, "estimate"), mean_and_spread(test, name, "truth")]
                row.append(f"{sum(covered)} of {len(covered)}")
            lines["counts"].append([*head, *row])
    head = ["noise", "model", "steps", "protocol", "seeds"]
    first = [f"first {k:,}" for k in FIRST]
    columns = {
        "labels": ["by", "AUROC", "AUROC of untrue ones", "AP", "precision", "of the first tenth", "ECE", "mean p"],
        "protocols": ["labels", "AUROC", "ECE", "share", "true share"],
        "matches": ["by", *first, "AP", "ECE"],
        "which score": ["by", *first, "AP"],
        "counts": ["share", "true share", "covered", "missing", "truly missing", "covered "],
    }
    titles = {
        "labels": "Wrong labels of the test split",
        "protocols": "Wrong labels by protocol, and the labels that the model was trained on",
        "matches": "Missing matches of the test split",
        "which score": "Which score finds missing matches: validation",
        "counts": "Counts of the test split, with 95 % intervals",
    }
    return "\n\n".join(
        f"## {titles[name]}\n\n{format_table(rows, [*head, *columns[name]], markdown=True)}"
        for name, rows in lines.items()
        if rows
    )
