"""What the tests of several verbs share."""

import jax
import pytest

from vacsr_jax.config_files import load_config
from vacsr_jax.data.tokenizer import train_tokenizer
from vacsr_jax.image_text import build_model, init_params
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.towers.base import adapt_towers
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training.checkpoint import config_to_dict


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """An export of a model that was never trained."""
    config = load_config("configs/scenes.py", [])
    tokenizer = train_tokenizer(["a red circle", "a blue square"], vocab_size=300, context_length=8)
    ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
    model = build_model(config, adapt_towers(PRESETS["tiny"], image_size=0, context_length=8, **ids))
    params = jax.device_get(init_params(model, 0))
    folder = tmp_path_factory.mktemp("export")
    Pretrained(model, params, tokenizer, config_to_dict(config), 3).save(folder)
    return folder
