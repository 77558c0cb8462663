"""Reports of runs in buckets, and into buckets: what is refused."""

import json

import pytest
from report_helpers import report

from essl_jax import errors
from essl_jax.errors import UsageError
from essl_jax.storage import places
from essl_jax.storage.workdir import read_config


@pytest.fixture
def run(workdir):
  """One with results."""
  content = {"config": {"name": "a run"}, "step": 1, "figures": {}}
  places.replace_text(workdir / "results.json", json.dumps(content))
  return workdir


def _forbid(*arguments, **options):
  raise OSError("Forbidden: b/bucket/o\nno access")


def test_no_other_file_is_written_over(run):
  """Only an earlier page is replaced; no other files are left."""
  for name in ("results.json", "page.html", "page.html"):
    out = run / name
    if name == "results.json":
      with pytest.raises(UsageError, match="is not a page of this program"):
        report(run, "--images=0", f"--out={out}")
    else:
      report(run, "--images=0", f"--out={out}")
  assert places.names(run) == ["page.html", "results.json"]


@pytest.mark.parametrize("call", ["pipe_file", "info"])
def test_a_bucket_that_may_not_be_used(call, run, monkeypatch):
  """That is wrong input, not trouble of the network."""
  monkeypatch.setattr(places.client(run), call, _forbid)
  with pytest.raises(UsageError, match="ask for permission") as caught:
    report(run, "--images=0")
  told, code = errors.line_and_code(caught.value)
  assert code == 2 and told.startswith(f"cannot use {run}")


def test_a_bucket_that_is_not_there(server):
  with pytest.raises(UsageError, match="is not a folder: there is no bucket"):
    report("gs://no_such_bucket/run")


def test_a_config_out_of_reach_is_not_damaged(run, monkeypatch):
  """The network's trouble has its own line and code."""
  monkeypatch.setattr(places.client(run), "cat_file", _forbid)
  monkeypatch.setattr(places.client(run), "open", _forbid)
  with pytest.raises(OSError, match="Forbidden") as caught:
    read_config(run)
  assert errors.line_and_code(caught.value)[1] == 1
