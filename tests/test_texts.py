"""Helpers for the texts of messages."""

import pytest

from essl_jax import texts

pytestmark = pytest.mark.quick


def test_some_counts_what_it_does_not_show():
  assert texts.some(["a", "b", "c"]) == "a, b, c"
  assert texts.some(list("abcde")) == "a, b, c and 2 more"
  assert texts.some(list("abc"), 1, separator="; ") == "a and 2 more"
  assert texts.some([]) == ""


class MuteError(Exception):
  """Cannot say what it is."""

  def __str__(self):
    raise RuntimeError("no text")


@pytest.mark.parametrize(
  ("error", "line", "typed"),
  [
    (MuteError(), "MuteError", "MuteError: MuteError"),
    (ValueError("\n is wrong.\nline 3"), "is wrong", "ValueError: is wrong"),
    (OSError("holds:\n a"), "holds", "OSError: holds"),
    (AssertionError(), "AssertionError", "AssertionError"),
    (KeyError("x"), "'x'", "KeyError: 'x'"),
  ],
)
def test_first_line_of_an_error(error, line, typed):
  assert texts.first_line(error) == line
  assert texts.first_line(error, with_type=True) == typed


def test_a_long_line_is_cut():
  line = texts.first_line(ValueError("x" * 500))
  assert line == "x" * 297 + "..."


def test_a_long_text_loses_its_middle():
  assert texts.shortened("x" * 3000) == "x" * 3000
  assert texts.shortened("abcdefghij", 4) == "ab[6 characters left out]ij"


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("a" * 255, ""),
    ("a" * 256, "has a name of 256 bytes, but at most 255 are allowed"),
    ("/tmp/" + "ä" * 150 + "/x", "has a name of 300 bytes, but at most 255"),
    ("abcdefgh/" * 500, "has 4500 bytes, but at most 4095 are allowed"),
    ("a\n", "must contain only printable"),
  ],
)
def test_what_is_wrong_with_a_name(text, wrong):
  found = texts.unfit(text)
  assert found.startswith(wrong) and bool(found) == bool(wrong)
