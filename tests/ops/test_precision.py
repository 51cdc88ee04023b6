"""The precision of products follows from what the device says of itself."""

import jax.numpy as jnp
import pytest

from vacsr_jax.ops import precision


@pytest.mark.parametrize(
    ("dtype", "has_units", "expected"),
    [
        ("bfloat16", True, "bfloat16"),
        ("bfloat16", False, "float32"),
        ("float32", True, "float32"),
        ("float32", False, "float32"),
        (jnp.float64, False, "float64"),
    ],
)
def test_only_bfloat16_without_units_becomes_float32(monkeypatch, dtype, has_units, expected):
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda: has_units)
    assert precision.product_dtype(dtype) == expected


class Device:
    def __init__(self, platform, **more):
        self.platform = platform
        vars(self).update(more)


@pytest.mark.parametrize(
    ("device", "flags", "expected"),
    [
        (Device("cpu"), "flags\t\t: fpu avx2 fma\n", False),
        (Device("cpu"), "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        (Device("cpu"), "flags\t\t: amx_tile amx_bf16\n", True),
        (Device("cpu"), "Features\t: fp asimd bf16\n", False),
        (Device("cpu"), None, False),
        (Device("gpu", compute_capability="7.5"), "", False),
        (Device("gpu", compute_capability="9.0"), "", True),
        (Device("gpu", compute_capability="gfx90a"), "", True),
        (Device("tpu"), "", True),
    ],
)
def test_a_device_says_what_it_has(monkeypatch, tmp_path, device, flags, expected):
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(precision, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.jax, "devices", lambda: [device])
    assert precision.has_bfloat16_units.__wrapped__() is expected
