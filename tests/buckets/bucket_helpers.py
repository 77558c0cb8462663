"""Helpers of the tests of data in buckets."""

from essl_jax.storage import places


def send(folder, path):
  """Copies a folder of this machine into the bucket."""
  for file in sorted(folder.rglob("*")):
    if file.is_file():
      inside = file.relative_to(folder).as_posix()
      client = places.client(path)
      client.pipe_file(f"{path}/{inside}", file.read_bytes())


def files(folder):
  """Lists the files in a cache, or in a folder of it."""
  return [x for x in folder.rglob("*") if x.is_file() and x.name[0] != "."]
