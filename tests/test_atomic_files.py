"""A file that is not JSON is refused and named."""

import pytest

from vacsr_jax.atomic_files import read_json

BAD = {
    b"": "is not JSON",
    b"{": "is not JSON",
    b"[" * 100_000: "is not JSON that can be read .*nested",
    b"[" * 100_000 + b"]" * 100_000: "is not JSON that can be read .*nested",
    b"9" * 5000: "is not JSON",
    b"\xff\xfe1": "is not UTF-8 text",
}


@pytest.mark.parametrize("content", BAD, ids=lambda x: repr(x[:9]))
def test_a_file_that_is_not_json_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.json {BAD[content]}"):
        read_json(tmp_path / "x.json")


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    assert read_json(tmp_path / "x.json") == {"a": [1]}
