"""The commands and code of the room's README, run against the application."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import vacsr_jax.serve
from vacsr_jax.main import parse

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]
PAGE = (Path(vacsr_jax.serve.__file__).parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.M | re.S)
LINES = [line for block in BLOCKS for line in block.splitlines()]
CURL = [line for line in LINES if "curl " in line]


def test_there_are_commands():
    assert len(CURL) >= 8
    assert {re.search(r"/api/(\w+)", line)[1] for line in CURL} == {"search", "score", "embed", "health"}


@pytest.mark.parametrize("line", CURL)
def test_every_curl_line_is_answered(line, client, served, monkeypatch):
    """What curl would send, sent: the shell makes the body."""
    monkeypatch.chdir(served)
    (served / "picture.png").write_bytes((served / "pictures" / "p4.png").read_bytes())
    body, _, command = line.rpartition(" | ")
    words = shlex.split(command)
    assert words[0] == "curl"
    path = words[-1].removeprefix("http://127.0.0.1:7860")
    if "-d" not in words:
        answer = client.get(path)
    else:
        data = words[words.index("-d") + 1]
        if data == "@-":
            data = subprocess.run(["bash", "-c", body], capture_output=True, text=True, check=True).stdout
        name, _, value = words[words.index("-H") + 1].partition(": ")
        answer = client.post(path, content=data, headers={name: value})
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.text)


def test_the_python_lines_run(client, served, monkeypatch):
    import io
    import urllib.request

    def urlopen(request):
        answer = client.post(request.selector, content=request.data, headers=dict(request.header_items()))
        assert answer.status_code == 200, answer.text
        return io.BytesIO(answer.content)

    monkeypatch.chdir(served)
    (served / "picture.png").write_bytes((served / "pictures" / "p4.png").read_bytes())
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    [code] = [block for block in BLOCKS if block.startswith("import base64")]
    names = {}
    exec(
        code.replace('open("picture.png", "rb").read()', '__import__("pathlib").Path("picture.png").read_bytes()'),
        names,
    )
    assert names["hits"][0]["id"]
    assert len(names["scores"]["probability"][0]) == 2


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("vacsr ")])
def test_every_command_is_understood(line):
    parse(shlex.split(line)[1:])
