"""Writes the outputs of the public AdamP, and of GPO pooling over torch's packed GRU, on tiny random inputs.

It needs torch and adamp, which are not dependencies of the library:

    python tests/parity/make_torch_golden.py
"""

from pathlib import Path

import numpy as np
import torch
from adamp import AdamP
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

GOLDEN = Path(__file__).parent / "golden"
SHAPES = {"w": (6, 4), "conv": (3, 2, 2, 2), "b": (5,), "emb": (7, 3)}  # rows are output units
STEPS = 8
SETTINGS = {
    "plain": {},
    "decay": {"weight_decay": 1e-2},
    "nesterov": {"weight_decay": 1e-2, "nesterov": True, "delta": 0.3, "betas": (0.8, 0.95), "wd_ratio": 0.3},
}


def adamp() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    out = {}
    for name, shape in SHAPES.items():
        out[f"{name}_init"] = rng.normal(size=shape)
        out[f"{name}_gradients"] = rng.normal(size=(STEPS, *shape))
    # The gradients of one leaf are nearly tangential to its weights from the start, so the projection must act on it.
    weights = out["w_init"]
    along = (out["w_gradients"] * weights).sum(-1, keepdims=True) / (weights**2).sum(-1, keepdims=True)
    out["w_gradients"] -= 0.99 * along * weights
    for setting, options in SETTINGS.items():
        for name in SHAPES:
            leaf = torch.nn.Parameter(torch.tensor(out[f"{name}_init"]))
            optimizer, path = AdamP([leaf], lr=1e-2, **options), []
            for gradient in out[f"{name}_gradients"]:
                leaf.grad = torch.tensor(gradient)
                optimizer.step()
                path.append(leaf.detach().numpy().copy())
            out[f"{name}_{setting}"] = np.stack(path)
    return out


def gpo(length: int = 6, width: int = 8, dim: int = 5) -> dict[str, np.ndarray]:
    """Chen et al. 2021, section 3: sinusoidal positions, a bidirectional GRU, a softmax at temperature 0.1."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    gru = torch.nn.GRU(width, width, batch_first=True, bidirectional=True)
    readout = torch.nn.Linear(width, 1, bias=False)
    lengths = torch.tensor([6, 4, 1, 3])
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * frequencies
    positions = torch.stack([angles.sin(), angles.cos()], -1).reshape(1, length, width).expand(len(lengths), -1, -1)
    packed = pack_padded_sequence(positions, lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(gru(packed)[0], batch_first=True)
    scores = readout(states.reshape(len(lengths), length, 2, width).mean(2))[..., 0]
    inside = torch.arange(length) < lengths[:, None]
    weights = torch.softmax(scores.masked_fill(~inside, -1e4) / 0.1, -1)
    x = torch.randn(len(lengths), length, dim)
    ordered = x.masked_fill(~inside[..., None], -1e4).sort(1, descending=True).values
    pooled = (ordered * inside[..., None] * weights[..., None]).sum(1)
    params = {f"param_gru.{name}": p for name, p in gru.named_parameters()} | {"param_linear.weight": readout.weight}
    tensors = {"x": x, "lengths": lengths, "weights": weights, "out": pooled, **params}
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


if __name__ == "__main__":
    np.savez_compressed(GOLDEN / "adamp.npz", **adamp())
    np.savez_compressed(GOLDEN / "gpo.npz", **gpo())
