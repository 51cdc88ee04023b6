"""`vacsr export --format=transformers`: transformers and `load` read the folder, and both give the same scores."""

from pathlib import Path

import numpy as np
import pytest

import vacsr_jax
from tests.parity.test_hf_siglip import TEXTS, make_pictures
from tests.small_models import untrained
from tests.test_pretrained import clip_folder  # noqa: F401 (a fixture)
from vacsr_jax.main import main

PARITY = Path(__file__).parents[1] / "parity" / "golden"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]


def pictures():
    return [x.convert("RGB") for x in make_pictures()]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def written(request, tmp_path_factory):
    """(A model, the folder that the command wrote of it.)"""
    folder = tmp_path_factory.mktemp(request.param)
    source = PARITY / "hf_siglip" if request.param == "siglip" else request.getfixturevalue("clip_folder")
    main(["export", f"--model={source}", f"--out={folder}", "--format=transformers"])
    return vacsr_jax.load(source), folder


def test_it_loads_again_with_the_same_scores(written):
    model, folder = written
    again, texts = vacsr_jax.load(folder), [text for text in TEXTS if "Γ" not in text]
    np.testing.assert_array_equal(again.tokenizer(texts), model.tokenizer(texts))
    ours, theirs = model.score(pictures(), texts), again.score(pictures(), texts)
    np.testing.assert_array_equal(ours.logit, theirs.logit)
    assert (ours.probability is None) == (theirs.probability is None)


def test_live_transformers_reads_it(written):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model, folder = written
    texts = [text for text in TEXTS if "Γ" not in text]
    length = model.tokenizer.context_length
    ids = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=length
    ).input_ids
    np.testing.assert_array_equal(ids, model.tokenizer(texts))
    pixels = AutoImageProcessor.from_pretrained(folder, use_fast=False, backend="pil")(pictures(), return_tensors="pt")
    theirs, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = theirs.eval()(input_ids=torch.tensor(ids), pixel_values=pixels.pixel_values).logits_per_image
    np.testing.assert_allclose(model.score(pictures(), texts).logit, found.numpy(), rtol=0, atol=1e-4)


def test_towers_that_transformers_cannot_express_are_refused(tmp_path, refuse):
    untrained().save(tmp_path / "export")
    message = refuse("export", f"--model={tmp_path / 'export'}", f"--out={tmp_path / 'out'}", "--format=transformers")
    assert "Hugging Face's CLIP cannot express this config: vision.pool must be 'cls'" in message
    assert not (tmp_path / "out").exists()
