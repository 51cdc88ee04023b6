import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from vacsr_jax.losses import contrastive
from vacsr_jax.losses.vacsr import hardest, masked_mean, vacsr
from vacsr_jax.ops.pairwise import PairTerms

pytestmark = pytest.mark.usefixtures("compile_fast")
WEIGHTS = {"kl": 0.5, "recon": 1.0, "positive": 2.0, "negative": 3.0}
WEIGHTS |= {"hard_negatives": 1, "hard": "similarity", "reduction": "row"}


def random_logits(n=4, m=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, m)), jnp.float32)


def random_terms(n=4, m=4):
    return PairTerms(*(random_logits(n, m, seed) for seed in range(4)))


EYE, ALL = jnp.eye(4, dtype=bool), jnp.ones((4, 4), bool)


def test_infonce_by_hand():
    logits = np.asarray(random_logits(), np.float64)
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    loss, terms = contrastive.infonce(random_logits(), EYE, ALL)
    np.testing.assert_allclose(loss, (rows.mean() + columns.mean()) / 2, rtol=1e-6)
    np.testing.assert_allclose(terms["t2i"], columns.mean(), rtol=1e-6)


def test_infonce_with_two_positives_aims_at_both():
    positives = EYE.at[0, 1].set(True)
    logits = np.asarray(random_logits(), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = -np.array([(log_p[0, 0] + log_p[0, 1]) / 2, log_p[1, 1], log_p[2, 2], log_p[3, 3]])
    np.testing.assert_allclose(contrastive.infonce(random_logits(), positives, ALL)[1]["i2t"], rows.mean(), rtol=1e-6)


def test_sigmoid_by_hand():
    logits = np.asarray(random_logits(), np.float64)
    signs = 2 * np.eye(4) - 1
    expected = -np.log(expit(signs * logits)).sum() / 4
    np.testing.assert_allclose(contrastive.sigmoid(random_logits(), EYE, ALL)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [contrastive.infonce, contrastive.sigmoid])
def test_padded_rows_change_nothing(loss):
    small = loss(random_logits(), EYE, ALL)[0]
    padded = jnp.full((6, 6), 37.0).at[:4, :4].set(random_logits())
    valid = jnp.zeros((6, 6), bool).at[:4, :4].set(True)
    positives = jnp.eye(6, dtype=bool)
    np.testing.assert_allclose(loss(padded, positives, valid)[0], small, rtol=1e-6)
    gradient = jax.grad(lambda x: loss(x, positives, valid)[0])(padded)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[4:])
    assert not np.any(gradient[:, 4:])


def numpy_vacsr(terms, positives, hardness, count=1):
    score, logit, kl, spread = (np.asarray(x, np.float64) for x in terms)
    del score
    y = positives.astype(float)
    negatives = []
    for values, hard, mask in ((spread, hardness, positives), (spread.T, hardness.T, positives.T)):
        for i in range(len(values)):
            others = [j for j in np.argsort(-hard[i]) if not mask[i, j]][:count]
            negatives += [values[i, j] for j in others]
    return {
        "kl": kl.mean(),
        "recon": 0.5 * ((y - expit(logit)) ** 2).sum() / len(y),
        "positive": spread[positives].mean(),
        "negative": np.mean(negatives),
    }


@pytest.mark.parametrize("hard", ["similarity", "loss"])
@pytest.mark.parametrize("count", [1, 2])
def test_vacsr_by_hand(hard, count):
    terms = random_terms()
    positives = np.eye(4, dtype=bool)
    positives[0, 2] = positives[2, 0] = True
    hardness = np.asarray(terms.score if hard == "similarity" else terms.variance_loss)
    expected = numpy_vacsr(terms, positives, hardness, count)
    weights = WEIGHTS | {"hard": hard, "hard_negatives": count}
    loss, parts = vacsr(terms, jnp.asarray(positives), ALL, **weights)
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, err_msg=name)
    total = 0.5 * expected["kl"] + expected["recon"] + 2 * expected["positive"] + 3 * expected["negative"]
    np.testing.assert_allclose(loss, total, rtol=1e-5)


def test_the_reduction_of_the_reconstruction():
    by_row, parts = vacsr(random_terms(), EYE, ALL, **WEIGHTS)
    mean = vacsr(random_terms(), EYE, ALL, **WEIGHTS | {"reduction": "mean"})[1]
    np.testing.assert_allclose(parts["recon"] / 4, mean["recon"], rtol=1e-6)
    assert np.isfinite(by_row)


def test_vacsr_ignores_padding():
    def pad(x):
        return jnp.full((6, 6), 1e3).at[:4, :4].set(x)

    valid = jnp.zeros((6, 6), bool).at[:4, :4].set(True)
    weights = WEIGHTS | {"hard_negatives": 2}
    small = vacsr(random_terms(), EYE, ALL, **weights)[1]
    padded = vacsr(PairTerms(*map(pad, random_terms())), jnp.eye(6, dtype=bool), valid, **weights)[1]
    for name in small:
        np.testing.assert_allclose(padded[name], small[name], rtol=1e-5, err_msg=name)


def test_fewer_negatives_than_asked_for_are_all_used():
    positives = jnp.ones((3, 3), bool).at[0, 1].set(False)
    spread = random_logits(3, 3)
    i, j, in_use = hardest(spread, ~positives, 2)
    assert in_use.sum() == 2
    np.testing.assert_allclose(masked_mean(spread[i, j], in_use), spread[0, 1], rtol=1e-6)
    assert not hardest(spread, jnp.zeros((3, 3), bool), 2)[2].any()


@pytest.mark.parametrize("loss", [contrastive.infonce, contrastive.sigmoid])
def test_a_batch_of_one_is_an_error(loss):
    one = jnp.ones((1, 1))
    with pytest.raises(ValueError, match="at least 2"):
        loss(one, one > 0, one > 0)
    with pytest.raises(ValueError, match="at least 2"):
        vacsr(PairTerms(one, one, one, one), one > 0, one > 0, **WEIGHTS)


@pytest.mark.parametrize(
    "field", [{"hard": "hardest"}, {"reduction": "sum"}, {"hard_negatives": 0}, {"hard_negatives": 5}]
)
def test_unknown_choices_are_errors(field):
    with pytest.raises(ValueError, match=f"loss.{next(iter(field))}"):
        vacsr(random_terms(), EYE, ALL, **WEIGHTS | field)


@pytest.mark.parametrize("loss", [contrastive.infonce, contrastive.sigmoid])
def test_gradients_against_finite_differences(loss):
    with jax.enable_x64(True):
        logits = jnp.asarray(np.asarray(random_logits(), np.float64))
        positives = jnp.asarray(np.eye(4, dtype=bool)).at[1, 3].set(True)
        function = jax.jit(lambda x: loss(x, positives, ALL)[0])
        gradient = jax.jit(jax.grad(function))(logits)
        for i, j in ((0, 0), (1, 3), (2, 1)):
            step = np.zeros((4, 4))
            step[i, j] = 1e-6
            finite = (function(logits + step) - function(logits - step)) / 2e-6
            np.testing.assert_allclose(gradient[i, j], finite, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", [contrastive.infonce, contrastive.cross_entropy, contrastive.sigmoid])
def test_one_class_alone_is_an_error(loss):
    column = jnp.ones((4, 1))
    with pytest.raises(ValueError, match="got 4 images and 1 texts, expected at least 2 of each"):
        loss(column, column > 0, column > 0)


@pytest.mark.parametrize("loss", [contrastive.infonce, contrastive.sigmoid])
def test_the_same_picture_under_two_ids_shares_its_loss_and_its_gradient(loss):
    logits = random_logits().at[1].set(random_logits()[0])
    value, gradient = jax.value_and_grad(lambda x: loss(x, EYE, ALL)[0])(logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0, 2:], gradient[1, 2:], atol=1e-6)


def test_the_hardest_negative_of_a_picture_that_stands_twice_is_its_own_caption():
    scores = (10 * jnp.eye(4)).at[1].set(10 * jnp.eye(4)[0])  # pictures 0 and 1 are the same one
    i, j, in_use = hardest(scores, ~EYE, 1)
    assert (int(i[1]), int(j[1])) == (1, 0)
    terms = PairTerms(scores, scores, jnp.ones((4, 4)), scores)
    assert np.isfinite(vacsr(terms, EYE, ALL, **WEIGHTS)[0])
    assert in_use.all()
