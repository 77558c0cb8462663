"""Lists the image files of a split's folder and follows its links."""

from collections import Counter
from collections.abc import Iterable, Sequence
import os
import re
import sys

from essl_jax.data.files import Entry, Files
from essl_jax.texts import printable

# Files found beside images; any other file counts as an image.
_NO_IMAGES = re.compile(
  r"\.(txt|xml|json|jsonl|csv|tsv|md|html?|pdf|ya?ml|log|ini|db|mat|npy|npz|h5"
  r"|pkl|pt|pth|py|ipynb|sh|zip|tar|gz|tgz|bz2|xz|7z|rar|md5|sha256|mp4|avi|mov"
  r"|wav|mp3)"
)
# Folders that file systems and programs leave beside images; names that begin
# with a full stop are left out too.
_LEFT_BEHIND = frozenset(
  (
    "@eaDir",  # thumbnails of Synology
    "#recycle",
    "#snapshot",
    "@Recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__MACOSX",
    "__pycache__",
  )
)


_CLOSED = ""  # marks a folder that is not entered


class Listing:
  """The image files of one split, each once.

  Links to places outside the set are followed, each place once. A link into the
  set, or to a folder around it, would mix images of splits or classes, so it is
  ignored.

  Attributes:
    classes: names of the folders to read in the split's folder; empty if
      everything in it is read.
    files: paths below it, sorted by class and name.
    counts: number of files of each class.
    ignored: number of files that are not images, by ending, and of links that
      are not followed.
    places: real paths that links lead to, and those of the folders in them.
  """

  def __init__(
    self,
    files: Files,
    path: str,
    own: Sequence[str],
    classes: Sequence[str] | None = None,
  ):
    """Lists the files.

    Args:
      files: of the set.
      path: of the split's folder.
      own: real paths of all folders of the set that are read.
      classes: names of the folders in it to read; by default all images, in
        whatever folders.
    """
    self._files, self._own = files, own
    self.classes = [] if classes is None else classes
    self.files: list[str] = []
    self.counts: list[int] = []
    self.ignored: Counter[str] = Counter()
    self.places: set[str] = set()
    if classes is None:
      self._list(path, "")
    for label in self.classes:
      before = len(self.files)
      self._list(f"{path}/{label}", label)
      self.counts.append(len(self.files) - before)

  def _list(self, top: str, label: str) -> None:
    """Adds the files of a class: those of a folder, then its subfolders'."""
    # A folder, its path below the split's folder, and, if a link led there, the
    # real path of its parent.
    waiting: list[tuple[str, str, str | None]] = [(top, label, None)]
    while waiting:
      folder, inside, around = waiting.pop()
      place = self._enter(folder, around)
      if place is _CLOSED:
        continue
      inner = []
      for entry in self._entries(folder):
        name = entry.name
        below = f"{inside}/{name}" if inside else name
        ending = os.path.splitext(name)[1].lower()
        if _is_folder(entry):
          if not _is_left_behind(name):
            inner.append((entry.path, below, place))
        elif name.startswith(".") or _NO_IMAGES.fullmatch(ending):
          self.ignored[ending or name] += 1
        elif self._is_new_file(entry, place):
          self.files.append(below)
      waiting += reversed(inner)

  def _enter(self, folder: str, around: str | None) -> str | None:
    """Returns a folder's real path if it is outside the set, else None."""
    if self._files.is_link(folder):
      place = self._files.real(folder)
      if self._is_inside(place):
        return _CLOSED
    elif around is None:
      return None
    else:
      place = os.path.join(around, os.path.basename(folder))
    if self._is_met(place in self.places):
      return _CLOSED
    self.places.add(place)
    return place

  def _is_new_file(self, entry: Entry, around: str | None) -> bool:
    """Whether to read a file; other things are found to be broken later."""
    if not entry.is_symlink():
      place = None if around is None else os.path.join(around, entry.name)
      return not self._is_met(place in self.places)
    if not os.path.isfile(entry.path):
      return True
    place = self._files.real(entry.path)
    if self._is_inside(place):
      return False
    known = {place, os.path.dirname(place)}
    if self._is_met(not known.isdisjoint(self.places)):
      return False
    self.places.add(place)
    return True

  def _is_inside(self, place: str) -> bool:
    """Whether a link leads into the set, or to a folder around it."""
    is_inside = any(
      is_below(place, own) or is_below(own, place) for own in self._own
    )
    self.ignored["link(s) into the set"] += is_inside
    return is_inside

  def _is_met(self, is_met: bool) -> bool:
    self.ignored["link(s) to a place met before"] += is_met
    return is_met

  def _entries(self, folder: str) -> Sequence[Entry]:
    try:
      return self._files.entries(folder)
    except OSError as error:
      self.ignored[f"folder(s): {error.strerror}"] += 1
      return []


def shared(one: Listing, other: Listing) -> list[str]:
  """Returns the places that links of both splits lead to, sorted."""
  found = one.places & other.places
  for listing, rest in ((one, other), (other, one)):
    found |= {x for x in listing.places if os.path.dirname(x) in rest.places}
  return sorted(found)


def folders(files: Files, path: str) -> list[str]:
  """Returns the sorted names of the folders in a folder, except hidden ones."""
  found = files.entries(path)
  return [
    x.name for x in found if not _is_left_behind(x.name) and _is_folder(x)
  ]


def _is_left_behind(name: str) -> bool:
  """Whether a folder was left by a file system or program."""
  return name.startswith(".") or name in _LEFT_BEHIND


def report_ignored(root: str, listings: Iterable[Listing]) -> None:
  """Reports ignored files and links on stderr, counted by ending."""
  ignored: Counter[str] = sum((x.ignored for x in listings), Counter())
  if ignored:
    kinds = ", ".join(f"{n} {kind}" for kind, n in ignored.most_common(5))
    line = (
      f"essl_jax: ignored {ignored.total()} file(s) in {root} that are not "
      f"images ({kinds})"
    )
    print(printable(line), file=sys.stderr)


def _is_folder(entry: Entry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # such as a link to itself
    return False


def is_below(path: str, folder: str) -> bool:
  """Whether a path is a folder or lies in it; both must be real paths."""
  return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
