"""The trained models that come with the package, in `vacsr_jax/models/`; `vacsr_jax.load("scenes")` reads one.

Each is an export in half precision, and CARD, which says what it is, the commands that made it, and its evaluation.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from vacsr_jax.atomic_files import read_json

MODELS = Path(__file__).parent / "models"
CARD = "shipped.json"


def shipped() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(card.parent.name for card in MODELS.glob(f"*/{CARD}"))


def shipped_folder(name: str) -> Path | None:
    """The folder of the model of this name; None if no such model comes with the package."""
    return MODELS / name if name in shipped() else None


def about(name: str) -> str:
    """One line that says what a model is."""
    return read_json(MODELS / name / CARD)["about"]


def suggestion(name: str) -> str:
    """What to say where there is no model of this name: a similar name, or all of them."""
    near = difflib.get_close_matches(name, shipped(), n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}The models that come with vacsr_jax are {', '.join(shipped())}"
