"""Accuracies and the two conventions of their harmonic mean, against published rows."""

import numpy as np
import pytest

from vacsr_jax.metrics.classification import accuracy, average_over_datasets, harmonic_mean, over_seeds

# Base and new accuracy of zero-shot CLIP ViT-B/16 and of CoOp on the 11 data sets, as their papers print them.
CLIP = [
    (72.43, 68.14), (96.84, 94.00), (91.17, 97.26), (63.37, 74.89), (72.08, 77.80), (90.10, 91.22), (27.19, 36.29),
    (69.36, 75.35), (53.24, 59.90), (56.48, 64.05), (70.53, 77.50),
]  # fmt: skip
COOP = [
    (76.47, 67.88), (98.00, 89.81), (93.67, 95.29), (78.12, 60.40), (97.60, 59.67), (88.33, 82.26), (40.44, 22.30),
    (80.60, 65.89), (79.44, 41.18), (92.19, 54.74), (84.69, 56.05),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "base", "new", "of_means", "of_hms"),
    [(CLIP, 69.34, 74.22, 71.70, 71.59), (COOP, 82.69, 63.22, 71.66, 70.83)],
    ids=["CLIP", "CoOp"],
)
def test_the_published_average_rows(rows, base, new, of_means, of_hms):
    found = average_over_datasets({str(i): row for i, row in enumerate(rows)})
    np.testing.assert_allclose(found, (base, new, of_means, of_hms), atol=0.006)


def test_accuracy_counts_images_not_classes():
    scores = np.eye(3)[[0, 0, 0, 1]]
    assert accuracy(scores, np.array([0, 0, 0, 2])) == 0.75


def test_harmonic_mean():
    assert harmonic_mean(72.43, 68.14) == pytest.approx(70.22, abs=0.005)
    assert harmonic_mean(0, 0) == 0


def test_seeds_have_mean_population_deviation_and_standard_error():
    found = over_seeds([1.0, 2.0, 4.0])
    np.testing.assert_allclose(found, (7 / 3, np.sqrt(14 / 9), np.sqrt(7 / 3 / 3)))
    assert over_seeds([2.0]) == (2.0, 0.0, None)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), "expected"),
        (np.zeros((0, 3)), np.zeros(0, int), "expected"),
        (np.full((1, 2), np.nan), np.zeros(1, int), "not finite"),
        (np.zeros((1, 2)), np.array([2]), "2..2 for 2 classes"),
    ],
)
def test_bad_scores_are_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        accuracy(scores, labels)


def test_no_data_set_has_no_average():
    with pytest.raises(ValueError, match="no data set"):
        average_over_datasets({})
