import pytest

from lit_vpo.datamodules.atomic import read_lines, write_lines


@pytest.mark.parametrize("lines", [[], ["a"], ["a", "", "b"], ["a\u2028b\u2029c\u0085d\x0b\x0c\x1ce", "ä"]])
def test_lines_come_back_as_written(tmp_path, lines):
    write_lines(tmp_path / "new" / "a.jsonl", lines)
    assert read_lines(tmp_path / "new" / "a.jsonl") == lines


def test_files_of_other_editors_are_read_too(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_lines(tmp_path / "a.jsonl") == ["a", "b"]
    (tmp_path / "a.jsonl").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"a.jsonl is not UTF-8"):
        read_lines(tmp_path / "a.jsonl")
