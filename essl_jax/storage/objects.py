"""Describes objects from a bucket's listings, without reading them."""

from collections.abc import Mapping
import os
from typing import Any, NamedTuple

from essl_jax.storage import places

# Clients' names for fields that change with an object's content.
_VERSIONS = ("generation", "etag", "ETag", "created", "LastModified")


class Object(NamedTuple):
  """One object.

  Attributes:
    path: `gs://BUCKET/...`.
    size: in bytes.
    version: differs for each content that was ever stored at the path.
  """

  path: str
  size: int
  version: str

  @property
  def name(self) -> str:
    """The part after the last slash."""
    return self.path.rpartition("/")[2]


def look(path: str | os.PathLike[str]) -> Object:
  """Asks for one object; FileNotFoundError if it does not exist."""
  found = places.client(path).info(os.fspath(path))
  if found["type"] != "file":
    raise FileNotFoundError(os.fspath(path))
  return _object(os.fspath(path), found)


def in_folder(
  path: str | os.PathLike[str],
) -> tuple[list[str], list[Object]]:
  """Lists a folder: the names of its folders and its objects.

  Args:
    path: of the folder.

  Returns:
    Sorted names, and the objects in any order; both may be empty.

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
  """Lists all objects in a folder and its subfolders, in any order."""
  folder = os.fspath(path)
  found = places.client(folder).find(folder, detail=True)
  return _objects(folder, found.values())


def _objects(folder: str, found: Any) -> list[Object]:
  """Converts a listing, without the folder markers that web consoles make."""
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
  """Returns a path without its scheme, as clients write it."""
  return path.rpartition("://")[2].strip("/")
