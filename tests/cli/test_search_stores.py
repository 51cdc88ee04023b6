"""`vacsr index --store` and `vacsr search` give what the default index gives; and what they refuse."""

import json

import numpy as np
import pytest

from vacsr_jax.main import main
from vacsr_jax.search.index import MixedIndex

pytestmark = pytest.mark.slow
STORES = ("lance:{}/vectors", "milvus:{}/vectors.db", "qdrant:{}/vectors")
N, D = 20, 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Documents, queries, metadata, and the default index of them."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)

    def write(name, n, start, kinds):
        ids = np.array([f"{name}{i}" for i in range(start, start + n)])
        x = rng.normal(size=(n, D)).astype(np.float32)
        np.savez(folder / f"{name}{start}.npz", embeddings=x, ids=ids, modality=np.array(kinds))

    write("d", N, 0, ["image", "text"] * (N // 2))
    write("d", 2, N, ["image", "text"])
    write("q", 4, 0, ["text"] * 4)
    lines = [
        json.dumps({"id": f"d{i}", "source": "web" if i % 3 else "book", "year": 2020 + i % 4}) for i in range(N + 2)
    ]
    (folder / "fields.jsonl").write_text("\n".join(lines[:N]))
    (folder / "more.jsonl").write_text("\n".join(lines[N:]))
    build(folder)
    return folder


def build(folder, *options, name="index"):
    given = [f"--documents={folder / 'd0.npz'}", f"--queries={folder / 'q0.npz'}"]
    main(["index", *given, f"--metadata={folder / 'fields.jsonl'}", *options, f"--out={folder / name}"])


def found(capsys, index, *options):
    capsys.readouterr()
    main(["search", f"--index={index}", f"--queries={index.parent / 'q0.npz'}", "--json", *options])
    return [json.loads(line)["hits"] for line in capsys.readouterr().out.splitlines()]


WHERE = ["--where=source=web", "--where=year=2020", "--where=year=2021"]


def assert_same(hits, expected):
    for one, other in zip(hits, expected, strict=True):
        assert [hit["id"] for hit in one] == [hit["id"] for hit in other]
        np.testing.assert_allclose([hit["z"] for hit in one], [hit["z"] for hit in other], atol=5e-4)


def test_where_leaves_documents_out(files, capsys):
    ids = {hit["id"] for hits in found(capsys, files / "index", "--k=6", *WHERE) for hit in hits}
    assert ids <= {f"d{i}" for i in range(N) if i % 3 and i % 4 < 2}
    assert len(ids) == 7


def test_fewer_documents_than_asked_for_are_a_shorter_list(files, refuse, capsys):
    few = {f"d{i}" for i in range(N) if i % 3 == 0 and i % 4 == 1}
    options = ("--where=source=book", "--where=year=2021", "--k=10")
    assert [{hit["id"] for hit in hits} for hits in found(capsys, files / "index", *options)] == [few] * 4
    message = "has source=book and year=1999"
    assert message in refuse(
        "search",
        f"--index={files / 'index'}",
        f"--queries={files / 'q0.npz'}",
        "--where=source=book",
        "--where=year=1999",
    )


@pytest.mark.parametrize("store", STORES)
def test_a_store_gives_what_the_index_gives(store, files, capsys):
    kind = store.partition(":")[0]
    index = files / kind
    build(files, f"--store={store.format(files / f'in_{kind}')}", name=kind)
    assert "20 documents; scale of 4 text queries, 10 of its own image documents (few)" in capsys.readouterr().out
    for options in ([], ["--k=6", *WHERE], ["--where=year=2021"], ["--prior=image=0.5", "--k=3"]):
        assert_same(found(capsys, index, *options), found(capsys, files / "index", *options))


def test_documents_are_added_to_a_store_as_to_the_index(files, capsys):
    build(files, f"--store=lance:{files / 'grown_vectors'}", name="grown")
    build(files, name="grown_index")
    for name in ("grown", "grown_index"):
        more = [f"--documents={files / 'd20.npz'}", f"--metadata={files / 'more.jsonl'}"]
        main(["index", "--add", *more, f"--out={files / name}"])
    for options in (["--k=22"], ["--k=8", *WHERE]):
        assert_same(found(capsys, files / "grown", *options), found(capsys, files / "grown_index", *options))


def test_a_collection_that_exists_needs_only_queries(files, capsys):
    build(files, f"--store=lance:{files / 'theirs'}#items", name="made")
    queries = f"--queries={files / 'q0.npz'}"
    main(["index", f"--store=lance:{files / 'theirs'}#items", queries, f"--out={files / 'adopted'}"])
    assert "20 documents; scale of 4 text queries\n" in capsys.readouterr().out
    assert_same(found(capsys, files / "adopted"), found(capsys, files / "index"))
    assert not MixedIndex.load(files / "adopted").owned


def test_a_mistake_is_named(files, refuse, capsys):
    documents, store = f"--documents={files / 'd0.npz'}", f"--store=lance:{files / 'taken'}"
    build(files, store, name="taken_index")
    capsys.readouterr()
    (files / "bad.jsonl").write_text('{"id": "d0"}\n{"year": 3}')
    new = f"--out={files / 'new'}"
    for command, message in (
        (["index", documents, "--store=elastic:x", new], "--store: got 'elastic:x', expected lance:PATH"),
        (["index", documents, store, new], "#documents exists and is not of the index"),
        (["index", documents, store, "--add", f"--out={files / 'taken_index'}"], "leave it out with --add"),
        (["index", documents, store, "--reference_images=x.npz", new], "leave --store out"),
        (["index", store, new], "--queries: needed to index documents that --store has already"),
        (["index", f"{store}#none", f"--queries={files / 'q0.npz'}", new], "has no collection 'none'"),
        (
            ["index", documents, f"--metadata={files / 'bad.jsonl'}", new],
            """bad.jsonl, line 2: expected an object with""",
        ),
        (
            ["search", f"--index={files / 'index'}", "--text=a", "--where=year"],
            "--where: got 'year', expected KEY=VALUE",
        ),
    ):
        assert message in " ".join(refuse(*command).split()), command
    assert not (files / "new").exists()
