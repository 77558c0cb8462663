"""What a bucket's listings tell of its objects, without reading them."""

from collections.abc import Mapping
import os
from typing import Any, NamedTuple

from essl_jax.storage import places

# What changes with an object's content, as clients call it.
_VERSIONS = ("generation", "etag", "ETag", "created", "LastModified")


class Object(NamedTuple):
  """One object.

  Attributes:
    path: `gs://BUCKET/...`.
    size: in bytes.
    version: another one for each content that was ever there.
  """

  path: str
  size: int
  version: str

  @property
  def name(self) -> str:
    """What follows the last slash."""
    return self.path.rpartition("/")[2]


def look(path: str | os.PathLike[str]) -> Object:
  """Asks for one object; FileNotFoundError where there is none."""
  found = places.client(path).info(os.fspath(path))
  if found["type"] != "file":
    raise FileNotFoundError(os.fspath(path))
  return _object(os.fspath(path), found)


def in_folder(
  path: str | os.PathLike[str],
) -> tuple[list[str], list[Object]]:
  """The names of a folder's folders, and its objects; in any order.

  Args:
    path: of the folder.

  Returns:
    Nothing where it has nothing.

  Raises:
    FileNotFoundError: there is no such folder, or no such bucket.
  """
  folder = os.fspath(path)
  found = places.client(folder).ls(folder, detail=True)
  own = _bare(folder)
  names = {
    _bare(x["name"])[len(own) + 1 :] for x in found if x["type"] == "directory"
  }
  return sorted(names - {""}), _objects(folder, found)


def below(path: str | os.PathLike[str]) -> list[Object]:
  """All objects in a folder and in its folders; in any order."""
  folder = os.fspath(path)
  found = places.client(folder).find(folder, detail=True)
  return _objects(folder, found.values())


def _objects(folder: str, found: Any) -> list[Object]:
  """Those whose names are no folder's, as browsers make them."""
  start, own = len(_bare(folder)) + 1, _bare(folder) + "/"
  return [
    _object(f"{folder}/{x['name'].lstrip('/')[start:]}", x)
    for x in found
    if x["type"] == "file"
    and x["name"].lstrip("/").startswith(own)
    and not x["name"].endswith("/")
  ]


def _object(path: str, found: Mapping[str, Any]) -> Object:
  version = next((str(found[x]) for x in _VERSIONS if found.get(x)), "")
  return Object(path, int(found["size"]), version)


def _bare(path: str) -> str:
  """A path as clients write it, without its scheme."""
  return path.rpartition("://")[2].strip("/")
