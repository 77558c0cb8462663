"""Helpers for the texts of messages."""

from collections.abc import Sequence
import unicodedata

_LONGEST = 300  # characters
_LONGEST_MESSAGE = 3000
_UNSPEAKABLE = ("Cc", "Cs", "Zl", "Zp")  # control, surrogates, line breaks
# Limits of Linux and macOS on a path and on a name in it, in bytes.
_LONGEST_PATH, _LONGEST_NAME = 4095, 255


def some(names: Sequence[str], shown: int = 3, *, separator: str = ", ") -> str:
  """The first few of many, and how many more there are.

  Args:
    names: all names.
    shown: the largest number to show.
    separator: put between the shown names.

  Returns:
    "a, b, c and 2 more".
  """
  more = f" and {len(names) - shown} more" if len(names) > shown else ""
  return separator.join(names[:shown]) + more


def printable(text: str) -> str:
  """Escapes characters that break a line or control a terminal.

  Args:
    text: from a file or another program.

  Returns:
    The text; unchanged if all its characters are printable.
  """
  return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def shortened(text: str, most: int = _LONGEST_MESSAGE) -> str:
  """Cuts out the middle of a text that is too long to read.

  Args:
    text: such as a message that quotes a value of a file.
    most: number of characters to keep.

  Returns:
    The text; of a longer one, both ends and the number of missing characters.
  """
  if len(text) <= most:
    return text
  ends = most // 2
  missing = len(text) - 2 * ends
  return f"{text[:ends]}[{missing} characters left out]{text[-ends:]}"


def unfit(text: str) -> str:
  """Why a text cannot be a name or the path of a file.

  Args:
    text: such as a field of a config.

  Returns:
    What is wrong with the text; empty if nothing is.
  """
  if any(unicodedata.category(x) in _UNSPEAKABLE for x in text):
    return "must contain only printable characters"
  longest = max(len(name.encode()) for name in text.split("/"))
  if longest > _LONGEST_NAME or len(text.encode()) > _LONGEST_PATH:
    what, number, most = "has", len(text.encode()), _LONGEST_PATH
    if longest > _LONGEST_NAME:
      what, number, most = "has a name of", longest, _LONGEST_NAME
    return f"{what} {number} bytes, but at most {most} are allowed"
  return ""


def message(error: BaseException) -> str:
  """The message of an error; the name of its type if even `str` fails."""
  try:
    return str(error)
  except Exception:  # of a user's class
    return type(error).__name__


def first_line(error: BaseException, *, with_type: bool = False) -> str:
  """The first line of an error's message, short enough to be quoted.

  Args:
    error: an error of any library; its message may have many lines or none.
    with_type: whether to put the name of its type first. An empty message is
      always replaced by that name.

  Returns:
    The first line that is not blank, without a full stop at its end, cut to at
    most 300 characters.
  """
  lines = [line for line in map(str.strip, message(error).splitlines()) if line]
  name = type(error).__name__
  text = lines[0].rstrip(".:") if lines else name
  if with_type and lines:
    text = f"{name}: {text}"
  text = printable(text[: _LONGEST + 1])
  return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
