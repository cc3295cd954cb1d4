"""Whose answers pairs are: the policy's own pass, another's are refused by name unless asked for."""

import pytest

from lit_vpo.datamodules.writers import check_writers

OWN, OTHER = "a" * 64, "b" * 64


def row(name=None, digest=None):
    return {"key": "k", "meta": {"model": {"name": name, "hash": digest}}}


def check(rows, other_policy=False):
    return check_writers(rows, lambda: OWN, other_policy)


def test_own_pairs_pass_and_are_counted():
    assert check([row("me", OWN), row("me", OWN), {"key": "k"}]) == (
        "answers of the training rows: 2 of this policy, 1 of nobody named"
    )


@pytest.mark.parametrize("rest", [[], [row("me", OWN)], [{"key": "k"}]])
def test_another_policys_are_refused_with_the_fix(rest):
    with pytest.raises(
        ValueError, match=r"another policy: 1 of llava \(bbbbbbbbbbbb\).*aaaaaaaaaaaa.*other_policy: true"
    ):
        check([*rest, row("llava", OTHER)])


def test_on_purpose_they_are_named():
    text = check([row("llava", OTHER), row("me", OWN)], other_policy=True)
    assert text == "answers of the training rows: 1 of this policy, 1 of llava (bbbbbbbbbbbb), 0 of nobody named"


@pytest.mark.parametrize("model", [None, "a name", {}, {"name": "server"}, {"name": "x", "hash": None}])
def test_rows_that_name_no_hash_ask_for_none(model):
    def never():
        raise AssertionError("hashed for nothing")

    assert "1 of nobody named" in check_writers([{"key": "k", "meta": {"model": model}}], never, False)
