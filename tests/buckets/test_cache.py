"""Copies of objects of a bucket, up to a stated size."""

import os

import bucket_helpers

from essl_jax.storage import cache, objects, places


def test_the_cache_has_room(workdir, requests):
  """What was used last stays; nothing half-written is left."""
  content = os.urandom(1000)
  for i in range(10):
    places.replace_bytes(workdir / str(i), content)
  listed = sorted(objects.below(workdir))
  assert [x.size for x in listed] == [1000] * 10
  copies = cache.Cache(5000 / 2**30)
  for what in listed:
    copies.read(listed[0])
    assert copies.read(what) == content
    found = bucket_helpers.files(cache.location())
    assert sum(x.stat().st_size for x in found) <= 5000
  del requests[:]
  assert copies.read(listed[0]) == copies.read(listed[9]) == content
  assert not requests
  copies.read(listed[1])
  assert requests == [listed[1].path]
  assert not list(cache.location().rglob("*.part"))


def test_what_is_held_stays(workdir):
  """Also where another process needs the room."""
  for i in range(4):
    places.replace_bytes(workdir / str(i), bytes([i]) * 1000)
  listed = sorted(objects.below(workdir))
  one, other = cache.Cache(2100 / 2**30), cache.Cache(2100 / 2**30)
  with one.hold(listed, listed[:1]) as folder:
    for what in listed[1:]:
      other.read(what)
    assert [x.name for x in bucket_helpers.files(folder)] == ["0"]
  with other.hold(listed[1:3]) as folder:
    assert [
      x.read_bytes()[0] for x in sorted(bucket_helpers.files(folder))
    ] == [1, 2]
  assert len(bucket_helpers.files(cache.location())) == 2
  with one.hold(listed) as folder:  # more than it may keep
    assert cache.location() not in folder.parents
    assert len(bucket_helpers.files(folder)) == 4
  assert not folder.exists()
