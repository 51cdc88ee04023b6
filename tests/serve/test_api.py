"""The HTTP API: its answers are the command line's, and nothing that is asked breaks it or reads another file."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import vacsr_jax
from tests.serve.conftest import TEXTS, base64_of, png
from vacsr_jax.main import main
from vacsr_jax.serve import requests
from vacsr_jax.serve.batching import BusyError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]
# A batch of another size adds in another order. z is a cosine over the spread of best cosines, which is tiny here.
CLOSE = {"z": 1e-3, "cosine": 1e-6, "probability": 1e-5, "uncertainty": 1e-5}


def post(client, what, **fields):
    return client.post(f"/api/{what}", json=fields)


def searched(capsys, folder, *options):
    """The answers of `vacsr search --json`."""
    capsys.readouterr()
    main(["search", f"--index={folder / 'index'}", "--json", *options])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def assert_same(got, expected):
    assert [(x["id"], x["modality"], x["content"]) for x in got["hits"]] == [
        (x["id"], x["modality"], x["content"]) for x in expected["hits"]
    ]
    for name, atol in CLOSE.items():
        mine, theirs = ([x[name] for x in answer["hits"]] for answer in (got, expected))
        assert [x is None for x in mine] == [x is None for x in theirs]
        np.testing.assert_allclose(np.array(mine, float), np.array(theirs, float), rtol=1e-5, atol=atol)


def test_searches_at_once_are_answered_as_the_command_line_answers_them(client, served, capsys):
    asked = ["a red circle", "a blue square", "square", "red"]
    options = [f"--text={x}" for x in asked], ["--k=8", f"--rerank={served / 'model'}", "--prior=image=0.5"]
    expected = searched(capsys, served, *options[0], *options[1])
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda x: post(client, "search", text=x, k=8, prior={"image": 0.5}), asked * 4))
    for i, answer in enumerate(found):
        assert answer.status_code == 200
        assert_same(answer.json(), expected[i % 4])


def test_a_picture_asks_as_a_file_and_as_a_document(client, served, capsys):
    file = served / "pictures" / "p2.png"
    [expected] = searched(capsys, served, f"--image={file}", "--k=11", f"--rerank={served / 'model'}")
    assert_same(post(client, "search", image=base64_of(file), k=11).json(), expected)
    assert_same(post(client, "search", image=f"data:image/png;base64,{base64_of(file)}", k=11).json(), expected)
    like = post(client, "search", like="p2.png", k=10).json()
    expected["hits"] = [x for x in expected["hits"] if x["id"] != "p2.png"]
    assert_same(like, expected)


def test_only_the_modalities_asked_for(client):
    hits = post(client, "search", text="red", k=6, modalities=["image"], rerank=False).json()["hits"]
    assert {x["modality"] for x in hits} == {"image"}
    assert {x["probability"] for x in hits} == {None}


def test_scores_and_embeddings_are_the_models(client, served):
    model, files = vacsr_jax.load(served / "model"), [served / "pictures" / f"p{i}.png" for i in range(3)]
    images = [base64_of(files[0]), {"id": "p1.png"}, base64_of(files[2])]
    got = post(client, "score", images=images, texts=[TEXTS[0], {"id": "texts.txt:2"}], interval=0.9).json()
    expected = model.score(files, [TEXTS[0], TEXTS[1]])
    for name in expected._fields:
        np.testing.assert_allclose(got[name], getattr(expected, name), rtol=1e-5, atol=1e-5)
    assert (np.array(got["low"]) < got["high"]).all()
    got = post(client, "embed", images=[base64_of(x) for x in files], texts=TEXTS[:2]).json()
    np.testing.assert_allclose(got["images"], model.cosine_vectors(model.encode_images(files)), atol=1e-5)
    np.testing.assert_allclose(got["texts"], model.cosine_vectors(model.encode_texts(TEXTS[:2])), atol=1e-5)
    assert got["model"] == model.fingerprint()


def test_an_index_in_a_database_answers_the_same(served, tmp_path, capsys):
    pytest.importorskip("lancedb", reason="needs lancedb")
    from vacsr_jax.search.index import MixedIndex
    from vacsr_jax.serve.answers import model_of
    from vacsr_jax.serve.engine import Engine

    made_of = [f"--images={served / 'pictures'}", f"--texts={served / 'texts.txt'}", f"--model={served / 'model'}"]
    main(["index", *made_of, f"--store=lance:{tmp_path / 'lance'}", f"--out={tmp_path / 'index'}"])
    index = MixedIndex.load(tmp_path / "index")
    engine = Engine(index, model_of(index, None))
    try:
        [expected] = searched(capsys, tmp_path, "--text=a red circle", "--k=8")
        assert_same(engine.ask(requests.Search("a red circle", 8)), expected)
        like = engine.ask(requests.Search(requests.Document("p1.png"), 3))
        assert like["query"] == str((served / "pictures" / "p1.png").resolve())
        assert engine.ask(requests.Document("texts.txt:2")) == ("text", TEXTS[1])
        with pytest.raises(ValueError, match="no document 'gone'"):
            engine.ask(requests.Document("gone"))
    finally:
        engine.close()
        index.close()


def test_a_filter_by_metadata_reaches_the_index(client, engine, monkeypatch):
    asked = []
    nothing = post(client, "search", text="red", k=1, where={"source": "web"})
    assert (nothing.status_code, nothing.json()["error"]) == (400, "where: no document is like that")
    monkeypatch.setattr(engine.index, "counts", lambda where: {"text": 3})
    monkeypatch.setattr(engine.index, "search", lambda *_, **options: asked.append(options) or 1 / 0)
    assert post(client, "search", text="red", k=1, where={"source": "web"}).status_code == 500
    assert asked[0]["where"] == {"source": "web"}
    assert post(client, "search", text="red", where="source = 'web'").status_code == 400


def test_a_database_that_is_gone_is_named(client, engine, monkeypatch):
    def gone(*args, **options):
        raise OSError("LanceDB, table documents: it was not found")

    monkeypatch.setattr(engine.index, "search", gone)
    answer = post(client, "search", text="red", k=1)
    assert (answer.status_code, answer.json()["error"]) == (503, "LanceDB, table documents: it was not found")


def test_health(client):
    health = client.get("/api/health").json()
    assert health["documents"] == {"image": 6, "text": 5}
    assert (health["status"], health["waiting"]) == ("ok", 0)


BAD = {
    "no query": ("search", {}, 400, "got no query, expected one of text, image"),
    "two queries": ("search", {"text": "a", "like": "p0.png"}, 400, "got text and like"),
    "a number for a text": ("search", {"text": 3}, 400, "text: got 3"),
    "a blank text": ("search", {"text": " "}, 400, "not blank"),
    "a long text": ("search", {"text": "a" * 3000}, 400, "2000 at most"),
    "half a letter": ("search", {"text": "\ud800"}, 400, "surrogate"),
    "no base64": ("search", {"image": "*"}, 400, "not base64"),
    "no picture": ("search", {"image": base64.b64encode(b"%!PS-Adobe").decode()}, 400, "no picture that can be read"),
    "an unknown document": ("search", {"like": "../../etc/passwd"}, 400, "no document"),
    "k": ("search", {"text": "a", "k": 0}, 400, "k: got 0"),
    "k as a text": ("search", {"text": "a", "k": "3"}, 400, "k: got '3'"),
    "k beyond the index": ("search", {"text": "a", "k": 12}, 400, "a whole number from 1 to 11"),
    "an unknown prior": ("search", {"text": "a", "prior": {"audio": 1}}, 400, "got the modality 'audio'"),
    "an infinite prior": ("search", {"text": "a", "prior": {"image": 1e308}}, 400, "expected a number such as 0.5"),
    "an unknown modality": ("search", {"text": "a", "modalities": ["audio"]}, 400, "expected some of image, text"),
    "an unknown field": ("search", {"text": "a", "K": 3}, 400, "got the field 'K'"),
    "rerank": ("search", {"text": "a", "rerank": 1}, 400, "expected true or false"),
    "no texts": ("score", {"images": [{"id": "p0.png"}], "texts": []}, 400, "expected a list of 1 to 256"),
    "a text as a picture": ("score", {"images": [{"id": "texts.txt:1"}], "texts": ["a"]}, 400, "as image"),
    "interval": ("score", {"images": [{"id": "p0.png"}], "texts": ["a"], "interval": 1}, 400, "between 0 and 1"),
    "nothing to embed": ("embed", {}, 400, "expected texts, images (base64), or both"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_request_gets_one_line(mistake, client):
    what, fields, status, line = BAD[mistake]
    answer = client.post(f"/api/{what}", content=json.dumps(fields), headers={"content-type": "application/json"})
    assert answer.status_code == status
    [error] = answer.json().values()
    assert line in error
    assert "\n" not in error
    assert "Traceback" not in answer.text


def test_what_is_no_json_is_refused(client):
    headers = {"content-type": "application/json"}
    for body in (b"{", b"\xff", b"[" * 100_000, b"9" * 5000, b"3", b'"text"', b"null"):
        answer = client.post("/api/search", content=body, headers=headers)
        assert answer.status_code == 400
        assert list(answer.json()) == ["error"]
    assert client.post("/api/search", content=b'{"text": "a"}').status_code == 415


def test_large_pictures_and_bodies_are_refused(client, monkeypatch):
    bomb = base64.b64encode(png(20_000, 20_000)).decode()
    answer = post(client, "search", image=bomb)
    assert (answer.status_code, "pixels" in answer.json()["error"]) == (413, True)
    monkeypatch.setattr(requests, "UPLOAD_BYTES", 100)
    assert post(client, "search", image="A" * 1000).status_code == 413
    headers = {"content-type": "application/json"}
    assert client.post("/api/search", content=b" " * (requests.BODY_BYTES + 1), headers=headers).status_code == 413
    chunks = (b" " * 2**20 for _ in range(50))  # without a length that could be checked before
    assert client.post("/api/search", content=chunks, headers=headers).status_code == 413


def test_a_full_queue_answers_503(client, engine, monkeypatch):
    def full(request):
        raise BusyError("256 requests wait already; try again in a moment")

    monkeypatch.setattr(engine, "submit", full)
    answer = post(client, "search", text="red")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_pictures_of_the_index_and_nothing_else(client, served, engine, monkeypatch):
    for what in ("thumbnail", "picture"):
        answer = client.get(f"/{what}", params={"id": "p1.png"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    text = served / "texts.txt"
    monkeypatch.setitem(engine.index.contents, "p2.png", "/etc/passwd")  # of an index made to harm
    monkeypatch.setitem(engine.index.contents, "p3.png", str(text))
    for name in (
        "secret.png",
        str(served / "secret.png"),
        "../secret.png",
        "texts.txt:1",
        "p2.png",
        "p3.png",
        "\0",
        "",
    ):
        for what in ("thumbnail", "picture"):
            assert client.get(f"/{what}", params={"id": name}).status_code == 404


def test_no_address_of_gradio_reads_a_file_or_fetches_an_address(client, served):
    secret = served / "secret.png"
    for path in (
        f"/gradio_api/file={secret}",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/x.png",
        f"/gradio_api/file/{secret}",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2fetc/passwd",
        "/gradio_api/custom_component/x/client/component/../../../x",
        "/gradio_api/call/answer",
        "/gradio_api/stream/x/y/z/playlist.m3u8",
        "/monitoring",
        "/docs",
        "/openapi.json",
    ):
        answer = client.get(path)
        assert answer.status_code in (403, 404), path
        assert b"root:" not in answer.content
        assert answer.content != secret.read_bytes()
    for path in ("run/answer", "api/answer", "component_server", "vibe-edit", "run-history/connect"):
        assert client.post(f"/gradio_api/{path}", json={}).status_code == 404


def test_an_event_that_names_a_file_which_was_never_uploaded_is_refused(app, client, served):
    """Gradio would copy the file to the uploads, and read it."""
    config = client.get("/config").json()
    kinds = {x["id"]: x["type"] for x in config["components"]}
    for path in (str(served / "secret.png"), "/etc/passwd", "http://127.0.0.1:1/x.png", 3, None):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for event in config["dependencies"]:
            data = [file if kinds.get(x) in ("image", "textbox") else None for x in event["inputs"]]
            body = {"data": data, "fn_index": event["id"], "session_hash": "s"}
            if file in data:
                assert client.post("/gradio_api/queue/join", json=body).status_code == 400
    assert client.post("/gradio_api/queue/join", json={"data": [], "event_data": {"a": [file]}}).status_code == 400
    assert client.post("/gradio_api/queue/join", content=b"{").status_code == 400
    assert not list(Path(app._uploads).rglob("*.png"))


def test_the_page_is_there_and_loads_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_another_host_or_page_may_not_ask(client):
    assert client.get("/api/health", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/api/health", headers={"host": "localhost:7860"}).status_code == 200
    assert client.get("/api/health", headers={"origin": "http://evil.example"}).status_code == 403


def test_a_token_is_asked_for_everywhere(app):
    from vacsr_jax.serve.guard import Guard

    guarded = Guard(app.app, app._uploads, "a-token-of-the-tests")
    client = TestClient(guarded, base_url="http://example.org", raise_server_exceptions=False)
    for path in ("/", "/api/health", "/config", "/picture?id=p0.png", "/nothing"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/?token=%ff").status_code == 401
    bearer = {"authorization": "Bearer a-token-of-the-tests"}
    assert client.get("/api/health", headers=bearer).status_code == 200
    entered = client.get("/?token=a-token-of-the-tests", follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert client.get("/api/health").status_code == 200  # by its cookie
