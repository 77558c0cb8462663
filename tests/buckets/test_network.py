"""Failing requests: tried again, or one line and a state to resume from."""

import contextlib
import os

import fault_worker
import program_helpers
import proxy as proxy_lib
import pytest

from essl_jax.devices import processes
from essl_jax.evaluation import pictures
from essl_jax.storage import places

KINDS = ("GET object", "GET list", "GET media", "POST upload", "DELETE object")
SECONDS = 150  # in which a program gives up: some requests after each other


@pytest.fixture(scope="module")
def proxy(server):
  """Between this process and the server."""
  made = proxy_lib.Proxy(server)
  with (
    contextlib.closing(made),
    pytest.MonkeyPatch.context() as patch,
  ):
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
      patch.setenv(name, made.url)
    patch.setattr(processes, "end", program_helpers.end_this_start)
    patch.setattr(pictures, "write_summary", fault_worker.small_picture)
    yield made


@pytest.fixture(scope="module")
def undisturbed(proxy, tmp_path_factory):
  """A recipe, its run, and how many requests of each kind it makes."""
  folder = tmp_path_factory.mktemp("undisturbed")
  recipe = folder / "recipe.py"
  recipe.write_text(fault_worker.RECIPE)
  workdir = places.locate(f"gs://bucket/undisturbed-{os.getpid()}")
  proxy.disarm()
  code, output, _ = fault_worker.start(recipe, workdir)
  assert code == 0, output
  counts = dict(proxy.counts)
  assert set(KINDS) <= set(counts), counts
  return recipe, workdir, counts


def _wrong(code, output, seconds):
  """Says what is wrong with the end of a start whose requests failed."""
  if code not in (0, 1):
    return f"code {code}: {output}"
  if seconds > SECONDS:
    return f"{seconds:.0f} s: {output}"
  if "Traceback" in output:
    return output
  if code and not output.splitlines()[-1].startswith("error: "):
    return output
  return ""


@pytest.mark.faults
@pytest.mark.parametrize("fault", proxy_lib.FAULTS)
def test_a_request_that_fails_once_is_tried_again(
  fault, proxy, undisturbed, workdir
):
  """Each kind of request at its first, a middle and its last occurrence."""
  recipe, expected, counts = undisturbed
  wrong, tried = [], 0
  for kind in KINDS:
    for at in sorted({1, (counts[kind] + 1) // 2, counts[kind]}):
      tried += 1
      run = workdir / kind.replace(" ", "-") / str(at)
      proxy.arm(fault, kind, at)
      code, output, seconds = fault_worker.start(recipe, run)
      fired = proxy.fired
      proxy.disarm()
      found = _wrong(code, output, seconds)
      if not found and code:
        found = f"code {code}: {output[-500:]}"
      # The number of requests differs by a few from run to run.
      if not found and not fired and at < counts[kind]:
        found = "nothing failed"
      if not found:
        found = fault_worker.differences(run, expected)
      if found:
        wrong.append((kind, at, found))
  print(f"{tried - len(wrong)} of {tried}")
  assert wrong == []


@pytest.mark.faults
@pytest.mark.parametrize("fault", [proxy_lib.DROP, proxy_lib.UNAVAILABLE])
@pytest.mark.parametrize("when", ["first", "middle", "last"])
def test_a_network_that_is_gone(fault, when, proxy, undisturbed, workdir):
  """One line after all retries; the same command resumes."""
  recipe, expected, counts = undisturbed
  at = {"first": 1, "middle": counts[None] // 2, "last": counts[None] - 20}
  proxy.arm(fault, at=at[when], lasts=True)
  code, output, seconds = fault_worker.start(recipe, workdir)
  fired = proxy.fired
  proxy.disarm()
  assert fired and code == 1, output
  assert _wrong(code, output, seconds) == ""
  (line,) = [x for x in output.splitlines() if x.startswith("error: ")]
  assert "a bucket cannot be reached" in line
  code, output, _ = fault_worker.start(recipe, workdir)
  assert code == 0, output
  assert fault_worker.differences(workdir, expected) == ""
