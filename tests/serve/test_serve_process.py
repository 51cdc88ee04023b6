"""`vacsr serve` as a process: what it refuses to start with, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ask(port, what, **fields):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{what}", json.dumps(fields).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a signal of Unix")
def test_a_signal_ends_it_after_what_is_under_way(served, tmp_path):
    command = [sys.executable, "-m", "vacsr_jax", "serve", f"--index={served / 'index'}", "--port=0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT, env=environment) as process:
        ready = process.stdout.readline()
        assert ready.startswith("ready after ")
        port, answers, begun = int(ready.rsplit(":", 1)[1]), [], threading.Barrier(9)

        def search(i):
            begun.wait()
            answers.append(ask(port, "search", text=f"red {i}", k=3))

        threads = [threading.Thread(target=search, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        assert ask(port, "embed", texts=["red"])["texts"]
        begun.wait()
        while ask(port, "embed", texts=["red"]) and not answers:  # some are under way by now
            pass
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped; every request under way was answered" in said
    assert "Traceback" not in said
    assert all(len(x["hits"]) == 3 for x in answers)
    assert not list(tmp_path.glob("vacsr_uploads_*"))


def test_other_machines_need_a_token(refuse, tmp_path):
    start = ("serve", "--index=no")
    assert "--token_file too" in refuse(*start, "--host=0.0.0.0")
    assert "expected 0 to 65535" in refuse(*start, "--port=70000")
    (tmp_path / "token").write_text("short")
    assert "16 or more letters" in refuse(*start, "--host=0.0.0.0", f"--token_file={tmp_path / 'token'}")
    (tmp_path / "token").write_text("long enough, but with spaces")
    assert "16 or more letters" in refuse(*start, f"--token_file={tmp_path / 'token'}")


def test_an_index_that_is_not_there(refuse, tmp_path):
    assert "holds no index.json" in refuse("serve", f"--index={tmp_path}")
