import pytest

from lit_vpo.atomic import append_line, read_lines, write_lines


@pytest.mark.parametrize("lines", [[], ["a"], ["a", "", "b"], ["a\u2028b\u2029c\u0085d\x0b\x0c\x1ce", "ä"]])
def test_lines_come_back_as_written(tmp_path, lines):
    write_lines(tmp_path / "new" / "a.jsonl", lines)
    assert read_lines(tmp_path / "new" / "a.jsonl") == lines


def test_an_appended_line_begins_behind_what_is_there(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    append_line(path, "a")
    append_line(path, "b")
    assert path.read_bytes() == b"a\nb\n"
    path.write_bytes(b"a\nto")
    append_line(path, "c")
    assert path.read_bytes() == b"a\nto\nc\n"


def test_files_of_other_editors_are_read_too(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_lines(tmp_path / "a.jsonl") == ["a", "b"]
    (tmp_path / "a.jsonl").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"a.jsonl is not UTF-8"):
        read_lines(tmp_path / "a.jsonl")
