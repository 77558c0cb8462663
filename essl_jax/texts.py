"""Helpers for the texts of messages."""

from collections.abc import Sequence
import unicodedata

_LONGEST = 300  # characters
_LONGEST_MESSAGE = 3000
_UNSPEAKABLE = ("Cc", "Cs", "Zl", "Zp")  # control, no UTF-8, line breaks
# Of a path and of a name in it, in bytes, as Linux and macOS have them.
_LONGEST_PATH, _LONGEST_NAME = 4095, 255


def some(names: Sequence[str], shown: int = 3, *, separator: str = ", ") -> str:
  """The first few of many, and how many more there are.

  Args:
    names: all of them.
    shown: how many to show at most.
    separator: between those that are shown.

  Returns:
    "a, b, c and 2 more".
  """
  more = f" and {len(names) - shown} more" if len(names) > shown else ""
  return separator.join(names[:shown]) + more


def printable(text: str) -> str:
  """Escapes what would break a line, or act on a terminal that shows it.

  Args:
    text: of a file or another program.

  Returns:
    The same text where all its characters can be printed.
  """
  return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def shortened(text: str, most: int = _LONGEST_MESSAGE) -> str:
  """A text without its middle, where it is too long to be read.

  Args:
    text: such as a message that quotes a value of a file.
    most: characters that are kept.

  Returns:
    The text; of a longer one both ends, and how much is missing.
  """
  if len(text) <= most:
    return text
  ends = most // 2
  missing = len(text) - 2 * ends
  return f"{text[:ends]}[{missing} characters left out]{text[-ends:]}"


def unfit(text: str) -> str:
  """Why a text can be neither a name nor the path of a file.

  Args:
    text: such as a field of a config.

  Returns:
    What is wrong with it; empty for a text that is fine.
  """
  if any(unicodedata.category(x) in _UNSPEAKABLE for x in text):
    return "must be of printable characters"
  longest = max(len(name.encode()) for name in text.split("/"))
  if longest > _LONGEST_NAME or len(text.encode()) > _LONGEST_PATH:
    what, number, most = "has", len(text.encode()), _LONGEST_PATH
    if longest > _LONGEST_NAME:
      what, number, most = "has a name of", longest, _LONGEST_NAME
    return f"{what} {number} bytes, and at most {most} are possible"
  return ""


def message(error: BaseException) -> str:
  """What an error says; the name of its type where it cannot even say that."""
  try:
    return str(error)
  except Exception:  # of anybody's class
    return type(error).__name__


def first_line(error: BaseException, *, with_type: bool = False) -> str:
  """What an error says, short enough to be quoted in a message of one line.

  Args:
    error: of any library; its message may have many lines or none.
    with_type: whether the name of its type comes first, as it does anyway
      where there is no message.

  Returns:
    The first line that is not blank, without a full stop at its end; at most
    300 characters of it.
  """
  lines = [line for line in map(str.strip, message(error).splitlines()) if line]
  name = type(error).__name__
  text = lines[0].rstrip(".:") if lines else name
  if with_type and lines:
    text = f"{name}: {text}"
  text = printable(text[: _LONGEST + 1])
  return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
