import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default, scenes
from vacsr_jax.image_text import abstract_params, build_model
from vacsr_jax.optim import factory, groups
from vacsr_jax.towers.presets import PRESETS


def optim(**fields):
    config = default.get_config()
    config.update_from_flattened_dict({f"optim.{name}": value for name, value in fields.items()})
    return config


@pytest.fixture(scope="module")
def large():
    return abstract_params(build_model(scenes.get_config(), PRESETS["ViT-L/14"]))


@pytest.fixture(scope="module")
def tiny():
    shapes = abstract_params(build_model(scenes.get_config(), PRESETS["tiny"]))
    return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)


def by_path(tree):
    return dict(zip(groups.paths(tree), jax.tree.leaves(tree), strict=True))


def test_the_decay_over_layers_has_the_real_depth(large):
    rates = by_path(groups.learning_rates(large, optim(image_lr=0.01, text_lr=0.1, layer_decay=0.7).optim))
    assert groups.depths(large) == {"vision": 24, "text": 12}
    assert rates["towers/vision/transformer/block_23/mlp_in/kernel"] == pytest.approx(0.01 * 0.7)
    assert rates["towers/vision/transformer/block_0/mlp_in/kernel"] == pytest.approx(0.01 * 0.7**24)
    assert rates["towers/text/transformer/block_11/norm_1/scale"] == pytest.approx(0.1 * 0.7)
    assert rates["towers/vision/patch_embedding/kernel"] == 0.01
    assert rates["towers/text/token_embedding"] == 0.1
    assert rates["towers/vision_projection/kernel"] == rates["pair/trunk_kernel"] == 1


def test_the_first_blocks_learn_and_the_rest_is_frozen(large):
    labels = by_path(groups.labels(large, optim(image_blocks=2, text_blocks=3).optim))
    learning = {path for path, label in labels.items() if label == "train"}
    blocks = {groups.BLOCK.match(path).groups() for path in learning if groups.BLOCK.match(path)}
    assert blocks == {("vision", "0"), ("vision", "1"), ("text", "0"), ("text", "1"), ("text", "2")}
    others = {path.split("/")[0] for path in learning if not groups.BLOCK.match(path)}
    assert others == {"pair", "towers"}
    assert [path for path in learning if path.startswith("towers/") and not groups.BLOCK.match(path)] == [
        "towers/logit_scale"
    ]


def test_patterns_freeze(tiny):
    labels = by_path(groups.labels(tiny, optim(frozen=("towers/text/*",)).optim))
    assert {label for path, label in labels.items() if path.startswith("towers/text/")} == {"frozen"}
    assert labels["towers/text_projection/kernel"] == labels["pair/trunk_kernel"] == "train"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen": ("towers/txt/*",)}, r"optim\.frozen: 'towers/txt/\*' matches no parameter"),
        ({"image_blocks": 3}, r"optim\.image_blocks: got 3, the vision tower has 2 blocks"),
        ({"frozen": ("*",)}, "nothing is left to train"),
        ({"name": "adam"}, r"optim\.name: got 'adam'"),
        ({"schedule": "linear"}, r"optim\.schedule: got 'linear'"),
        ({"decayed": "none"}, r"optim\.decayed: got 'none'"),
        ({"schedule": "step", "step_at": 1.5}, r"optim\.step_at: got 1\.5"),
    ],
)
def test_what_fits_nothing_is_an_error(tiny, fields, message):
    with pytest.raises(ValueError, match=message):
        factory.make_optimizer(optim(**fields), tiny)


def steps(config, params, n):
    """Returns the params after n training steps on a sum of squares."""
    optimizer = factory.make_optimizer(config, params)
    labels = groups.labels(params, config.optim)

    def loss(params, number):
        held = groups.hold_frozen(params, labels, number >= config.optim.image_frozen_steps)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(held))

    @jax.jit
    def step(params, state, number):
        updates, state = optimizer.update(jax.grad(loss)(params, number), state, params)
        return optax.apply_updates(params, updates), state

    state, found = optimizer.init(params), []
    for number in range(n):
        params, state = step(params, state, number)
        found.append(params)
    assert step._cache_size() == 1
    return found, state


SMALL = {
    "towers": {
        "vision": {"transformer": {f"block_{k}": {"kernel": jnp.eye(3) + 1} for k in range(2)}},
        "text": {"transformer": {"block_0": {"kernel": jnp.eye(3) + 1}}},
    },
    "pair": {"scale": jnp.float32(2), "bias": jnp.ones(2)},
}


@pytest.mark.parametrize("name", factory.OPTIMIZERS)
def test_the_image_tower_starts_late_and_afresh(name):
    config = optim(name=name, image_frozen_steps=2, warmup_steps=0, clip_norm=1e9, lr=0.1, schedule="step")
    found, _ = steps(config, SMALL, 3)
    start = SMALL["towers"]["vision"]["transformer"]["block_1"]["kernel"]
    vision = [params["towers"]["vision"]["transformer"]["block_1"]["kernel"] for params in found]
    text = [params["towers"]["text"]["transformer"]["block_0"]["kernel"] for params in found]
    np.testing.assert_array_equal(vision[1], start)
    np.testing.assert_allclose(vision[2], text[0], rtol=1e-6)  # its third step is the others' first


def test_frozen_leaves_have_no_moments_and_rates_multiply():
    config = optim(frozen=("towers/text/*",), image_lr=0.5, layer_decay=0.5, warmup_steps=0, clip_norm=1e9)
    (after,), state = steps(config, SMALL, 1)
    np.testing.assert_array_equal(
        after["towers"]["text"]["transformer"]["block_0"]["kernel"],
        SMALL["towers"]["text"]["transformer"]["block_0"]["kernel"],
    )
    moved = [
        float(SMALL["towers"]["vision"]["transformer"][f"block_{k}"]["kernel"][0, 0])
        - float(after["towers"]["vision"]["transformer"][f"block_{k}"]["kernel"][0, 0])
        for k in range(2)
    ]
    assert moved[1] == pytest.approx(2 * moved[0], rel=1e-3)
    assert sum(leaf.shape == (3, 3) for leaf in jax.tree.leaves(state)) == 4  # two moments of two image blocks


def test_the_step_schedule_falls_to_a_tenth():
    config = optim(schedule="step", step_at=0.6, warmup_steps=2)
    config.train.steps = 10
    rate = factory.learning_rate(config)
    found = [float(rate(step)) / config.optim.lr for step in range(10)]
    np.testing.assert_allclose(found, [0, 0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1], rtol=1e-6)


def test_single_numbers_are_not_decayed():
    mask = factory.decay_mask("all")(SMALL)
    assert mask["pair"] == {"scale": False, "bias": True}
    assert factory.decay_mask("matrices")(SMALL)["pair"]["bias"] is False


@pytest.mark.parametrize("name", ["adamw", "adamp"])
@pytest.mark.slow
def test_a_spike_in_the_gradient_moves_the_moments_no_more_than_a_step_at_the_limit(name):
    params = {"pair": {"kernel": jnp.ones((2, 3))}}
    optimizer = factory.make_optimizer(optim(name=name, clip_norm=1.0, warmup_steps=0), params)
    spike = jax.tree.map(lambda x: 1e8 * jnp.ones_like(x), params)
    updates, state = optimizer.update(spike, optimizer.init(params), params)
    moments = [x for x in jax.tree.leaves(state) if getattr(x, "shape", ()) == (2, 3)]
    assert moments
    assert max(float(jnp.linalg.norm(x)) for x in moments) <= 0.1 + 1e-6  # (1 - b1) of a gradient of norm 1
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(updates)) < 2 * optim().optim.lr
