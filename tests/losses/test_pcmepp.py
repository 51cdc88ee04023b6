"""PCME++'s loss on a Gaussian's distances: by hand in float64, and against the public code's values and gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vacsr_jax.losses.pcmepp import VIB_LIMIT, mean_kl, pcmepp, pseudo_labels
from vacsr_jax.pair.pcmepp import GaussianScorer

SHARED = Path(__file__).parents[3] / "shared" / "data" / "retrieval" / "golden" / "pcmepp_loss_eye.npz"
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 4))
IMAGES, TEXTS = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 6))
EYE, ALL = jnp.eye(4, dtype=bool), jnp.ones((4, 4), bool)
WEIGHTS = {"pseudo_positives": 0.3, "vib": 0.2}


def numpy_cross_entropy(logits, labels):
    p = 1 / (1 + np.exp(-logits))
    return -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()


def numpy_pseudo(logits, labels):
    out = labels.copy()
    for i, row in enumerate(labels):
        best = row.argmax()
        for j in range(len(row)):
            if logits[i, j] >= logits[i, best]:
                out[i, j] = row[best]
    return out


def test_by_hand():
    labels = np.eye(4)
    labels[0] = [0.6, 0.4, 0, 0]  # a mixed image
    kl = sum(0.5 * (x[:, :3] ** 2 + np.exp(x[:, 3:]) - x[:, 3:] - 1).mean() for x in (IMAGES, TEXTS))
    match = numpy_cross_entropy(LOGITS, labels)
    rows, columns = numpy_pseudo(LOGITS, labels), numpy_pseudo(LOGITS.T, labels.T).T
    assert (rows != labels).any() and (columns != labels).any()  # noqa: PT018
    pseudo = numpy_cross_entropy(LOGITS, rows) + numpy_cross_entropy(LOGITS, columns)
    arrays = (jnp.asarray(x, jnp.float32) for x in (LOGITS, IMAGES, TEXTS, labels))
    loss, terms = pcmepp(*arrays, ALL, **WEIGHTS)
    np.testing.assert_allclose(loss, 2 * match + 0.3 * pseudo + 0.2 * kl, rtol=1e-5)
    np.testing.assert_allclose([terms["match"], terms["pseudo"], terms["vib"]], [match, pseudo, kl], rtol=1e-5)


def test_the_public_codes_loss_and_gradients():
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is absent")
    golden = np.load(SHARED)
    names = ("img_mean", "img_logvar", "txt_mean", "txt_logvar")
    with jax.enable_x64(True):

        @jax.jit
        @jax.value_and_grad
        def loss_of(x):
            images, texts = (jnp.concatenate([x[f"{side}_mean"], x[f"{side}_logvar"]], -1) for side in ("img", "txt"))
            logits = GaussianScorer(x["scale"], x["shift"]).score_tile(images, texts).logit
            labels = jnp.asarray(golden["matched"])
            valid = jnp.ones((8, 8), bool)
            return pcmepp(logits, images, texts, labels, valid, pseudo_positives=0.1, vib=1e-4)[0]

        inputs = {name: jnp.asarray(golden[name]) for name in names} | {
            "scale": jnp.array(5.0),
            "shift": jnp.array(5.0),
        }
        loss, gradients = loss_of(inputs)
        np.testing.assert_allclose(loss, golden["loss"], rtol=0, atol=1e-12)
        for name in names:
            np.testing.assert_allclose(gradients[name], golden[f"g_{name}"], rtol=0, atol=1e-12, err_msg=name)
        for name in ("scale", "shift"):
            np.testing.assert_allclose(abs(gradients[name]), abs(golden[f"g_{name}"][0]), rtol=1e-10, err_msg=name)


@pytest.mark.slow
def test_padding_changes_nothing():
    small = pcmepp(*(jnp.asarray(x, jnp.float32) for x in (LOGITS, IMAGES, TEXTS)), EYE, ALL, **WEIGHTS)[1]
    padded = jnp.full((6, 6), 37.0).at[:4, :4].set(LOGITS)
    valid = jnp.zeros((6, 6), bool).at[:4, :4].set(True)
    items = (jnp.ones((6, 6)).at[:4].set(x) for x in (IMAGES, TEXTS))
    found = pcmepp(padded, *items, jnp.eye(6), valid, **WEIGHTS)[1]
    for name in ("match", "pseudo"):
        np.testing.assert_allclose(found[name], small[name], rtol=1e-5)


def test_no_gradient_through_pseudo_labels_and_no_runaway_divergence():
    logits, labels = jnp.asarray(LOGITS, jnp.float32), jnp.eye(4)
    assert not np.any(jax.grad(lambda x: jnp.sum(pseudo_labels(x, labels, ALL)))(logits))
    wild = jnp.full((4, 6), 20.0)
    assert mean_kl(wild) > VIB_LIMIT
    assert pcmepp(logits, wild, wild, labels, ALL, **WEIGHTS)[1]["vib"] == 0
