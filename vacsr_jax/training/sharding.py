"""The mesh: batches are split over its only axis, and parameters are copied to every device or split as well."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh(devices=None) -> Mesh:
    """A mesh of all devices (or of the given ones) along one axis, "data"."""
    return Mesh(np.array(devices if devices is not None else jax.devices()), ("data",))


def state_sharding(state: Any, mesh: Mesh, *, shard_params: bool) -> Any:
    """A sharding for each leaf: a copy on every device, or a split along its longest axis that divides evenly."""

    def of(leaf):
        axes = [i for i, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not shard_params or leaf.ndim < 2 or not axes:
            return NamedSharding(mesh, P())
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*("data" if i == longest else None for i in range(leaf.ndim))))

    return jax.tree.map(of, state)


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Turns this process's rows of a global batch into global arrays, split along the rows."""
    sharding = NamedSharding(mesh, P("data"))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
