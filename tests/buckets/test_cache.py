"""Copies of objects of a bucket, up to a stated size."""

import contextlib
import os
import subprocess
import sys
import time

import bucket_helpers

from essl_jax.storage import cache, objects, places


def test_the_cache_has_room(workdir, requests):
  """The files used last stay; no half-written file is left."""
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
  """Also if another process needs the space."""
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


_READER = """
import random, sys
from essl_jax.storage import cache, objects, places
path = places.locate(sys.argv[1])
listed = sorted(objects.below(path))
copies = cache.Cache(float(sys.argv[2]) / 2**30)
print("begun", flush=True)
for _ in range(int(sys.argv[3])):
  with copies.hold(random.sample(listed, 3)) as folder:
    for what in random.sample(listed, 20):
      content = copies.read(what)
      assert set(content) == {int(what.name)} and len(content) == what.size
    for file in folder.iterdir():
      if file.name[0] != ".":
        assert set(file.read_bytes()) == {int(file.name)}
"""


def test_processes_share_it_and_are_killed(workdir):
  """Nothing half-written is ever read, and the size is kept."""
  for i in range(40):
    places.replace_bytes(workdir / str(i), bytes([i]) * (1000 + i))
  most, rounds = 30_000, 40
  words = [sys.executable, "-c", _READER, str(workdir), str(most)]
  with contextlib.ExitStack() as stack:
    readers = [
      stack.enter_context(
        subprocess.Popen([*words, str(n)], stdout=subprocess.PIPE)
      )
      for n in (rounds, rounds, 10**6)
    ]
    for reader in readers:
      assert reader.stdout.readline() == b"begun\n"
    time.sleep(0.5)
    readers.pop().kill()
    assert [x.wait(timeout=50) for x in readers] == [0, 0]
  copies = cache.Cache(most / 2**30)
  for what in objects.below(workdir):
    assert set(copies.read(what)) == {int(what.name)}
  found = bucket_helpers.files(cache.location())
  assert sum(x.stat().st_size for x in found) <= most * 1.1
