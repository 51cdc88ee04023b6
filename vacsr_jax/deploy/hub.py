"""Publishes a model in a repository of the Hugging Face hub, with a model card."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.evaluation.protocol import protocol_line
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.report.accuracies import accuracy_table
from vacsr_jax.report.run_report import metric_rows
from vacsr_jax.report.tables import format_table
from vacsr_jax.workdir import EVALUATION

CARD = "README.md"


def push(
    model: Pretrained,
    repository: str,
    *,
    evaluation: Mapping[str, Any] | None = None,
    private: bool = False,
    new_card: bool = False,
) -> tuple[str, bool]:
    """Uploads an export, its evaluation and a model card in one commit; makes the repository if it does not exist.

    A card that is there already is kept, unless `new_card`.

    Returns:
      the address of the repository, and whether the card was written.

    Raises:
      ValueError: if the name is none, nobody is logged in, or the hub refuses.
    """
    import huggingface_hub  # slow to import

    if repository.count("/") != 1:
        raise ValueError(f"--to: got {repository!r}, expected USER/NAME")
    api = huggingface_hub.HfApi(library_name="vacsr_jax")
    try:
        address = str(api.create_repo(repository, exist_ok=True, private=private or None))
        card = new_card or not api.file_exists(repository, CARD)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            model.save(folder)
            if evaluation is not None:
                write_text(folder / EVALUATION, to_json(evaluation))
            if card:
                write_text(folder / CARD, model_card(model, repository, evaluation))
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload with vacsr push")
    except Exception as error:  # no network, no token, no right, a malformed name: many types
        raise ValueError(
            f"{repository} could not be written: {error}; log in with `hf auth login`, or set HF_TOKEN to a token that "
            "may write"
        ) from error
    return address, card


def model_card(model: Pretrained, repository: str, evaluation: Mapping[str, Any] | None) -> str:
    """The text of the card: what the model is, how it is loaded, what its numbers mean, and its evaluation."""
    config = model.config or {}
    data = config.get("data", {})
    trained = f"{config.get('method', 'a pretrained CLIP')}"
    meaning = [f"- `{name}`: {text}" for name, text in model.meaning._asdict().items() if text]
    about = [f"Method `{trained}`"]
    about += [f"data `{data['name']}`"] if "name" in data else []
    about += [f"checkpoint of step {model.step}"] if model.step is not None else []
    return f"""---
library_name: vacsr_jax
pipeline_tag: zero-shot-image-classification
tags:
- jax
- image-text-retrieval
- vacsr_jax
---

# {repository.partition("/")[2]}

A model of image-text similarity, made with vacsr_jax (`pip install vacsr_jax`). It says how well a picture and
a text match. {", ".join(about)}.

```python
import vacsr_jax

model = vacsr_jax.load("{repository}")
scores = model.score(["picture.png"], ["a caption"])
print(scores.logit, scores.probability, scores.uncertainty)
```

What the numbers mean:

{chr(10).join(meaning)}

## Evaluation

{evaluation_text(evaluation)}

`config.json` has every field of the run.
"""


def evaluation_text(evaluation: Mapping[str, Any] | None) -> str:
    """The tables of a run's evaluation as Markdown, with its protocol."""
    if evaluation is None:
        return "None is stored with the model. `vacsr evaluate --model=... --config=...` computes one."
    columns = {name: evaluation[name] for name in ("untrained", "trained") if isinstance(evaluation.get(name), dict)}
    if any(isinstance(value, dict) for results in columns.values() for value in results.values()):
        return f"```\n{accuracy_table(columns)}\n```"
    table = format_table(metric_rows(columns), ["metric", *columns], markdown=True)
    return f"{table}\n\n{protocol_line(evaluation['protocol'])}" if "protocol" in evaluation else table
