"""Package metadata. Tool settings live in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "vacsr_jax/__init__.py").read_text(encoding="utf-8"), re.M)


class WithConfigs(build_py):
    """Puts the published configs, which stay in `configs/`, inside a wheel's package (`config_files.PUBLISHED`)."""

    def run(self):
        super().run()
        if not self.editable_mode:
            inside = Path(self.build_lib) / "vacsr_jax" / "published" / "configs"
            shutil.rmtree(inside, ignore_errors=True)  # of an earlier build
            inside.mkdir(parents=True)
            for file in (HERE / "configs").glob("*.py"):
                shutil.copy(file, inside)


SEARCH = ["faiss-cpu>=1.9", "qdrant-client>=1.14"]
LANCE = ["lancedb>=0.40"]
MILVUS = ["pymilvus>=3.0", "milvus-lite>=3.2"]  # the second is the engine in a file; a cluster needs the first alone

SERVE = ["gradio>=6.0"]
DATASETS = ["datasets>=4.0"]
TENSORBOARD = ["tensorboard>=2.17"]
DOCS = ["mkdocs-material>=9.6", "mkdocstrings-python>=1.16", "latex2mathml>=3.77", "nbformat>=5.10"]

TEST = [
    *SEARCH,  # wheels for every Python here, 700 MB installed with the next three: their tests run by default
    *LANCE,
    *MILVUS,
    *SERVE,
    "pytest>=8",
    "pytest-xdist>=3.5",
    "beartype>=0.18",
    "hypothesis>=6.100",
    "eccv_caption==0.1.0",
    "nbclient>=0.10",
    "ipykernel>=6.29",
]

setup(
    name="vacsr_jax",
    version=VERSION[1],
    description="Variational similarity of images and texts (VACSR) in JAX/Flax: train, evaluate, load.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The vacsr_jax authors",
    url="https://github.com/vacsr-jax/vacsr_jax",
    project_urls={"Documentation": "https://vacsr-jax.github.io/vacsr_jax/"},
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    keywords="image-text retrieval, CLIP, similarity, uncertainty, JAX, Flax",
    cmdclass={"build_py": WithConfigs},
    packages=find_packages(include=["vacsr_jax", "vacsr_jax.*"]),
    package_data={"vacsr_jax": ["models/*/*.json", "models/*/*.safetensors", "models/*/tokenizer/*.json"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.7.2",
        "flax>=0.11.2",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.36",
        "grain>=0.2.15",
        "tensorflow-datasets>=4.9.9",
        "ml_collections>=1.1",
        "transformers>=5.0",
        "safetensors>=0.5",
        "jaxtyping>=0.3.3",
        "numpy>=2.0",
        "scipy>=1.13",
        "pillow>=10",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "absl-py>=2.1",
        "platformdirs>=4",
        "filelock>=3.12",
        "flatbuffers>=24.3",  # of jax.export: 40 kB, and not among the dependencies of jax
    ],
    extras_require={
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "tfds": ["tensorflow>=2.18"],
        "search": SEARCH,
        "serve": SERVE,
        "lance": LANCE,
        "milvus": MILVUS,
        "heif": ["pillow-heif>=1.0"],  # HEIC pictures
        "ray": ["ray[data]>=2.40"],
        "parquet": ["pyarrow>=15"],  # embeddings in parquet files
        "datasets": DATASETS,
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.20"],
        "tensorboard": TENSORBOARD,
        "wandb": ["wandb>=0.19"],
        "trackio": ["trackio>=0.20"],
        "notebook": ["ipykernel>=6.29", "jupyterlab>=4"],
        "docs": DOCS,
        "test": TEST,
        # With these two, 150 MB installed, their tests run too; those of onnx, wandb and trackio run where they are.
        "dev": [*TEST, *DATASETS, *TENSORBOARD, *DOCS, "ruff>=0.9", "mypy>=2.4", "pre-commit>=4"],
    },
    entry_points={"console_scripts": ["vacsr = vacsr_jax.main:main"]},
)
