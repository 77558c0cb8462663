"""Pages of damaged files and of users' evaluations.

Whatever `results.json` and `metrics-*.jsonl` hold, and whatever an evaluation
of one's own raises, the page is written: what cannot be shown is left out, and
a line of the page says so.
"""

import json
import os
import sys

import pytest
from report_helpers import Page, report

from essl_jax.errors import UsageError
from essl_jax.evaluation import drawing
from essl_jax.report import figures

MODULE = '''
from essl_jax.evaluation.evaluation import Evaluation


class Failing(Evaluation):
  """Of which only the figures are right."""

  def run(self, bench, state):
    return {"score": 1.0}

  def rows(self, figures):
    return figures["absent"]

  @classmethod
  def curves(cls, figures):
    raise RuntimeError("no\\ncurves")

  @classmethod
  def pictures(cls, figures):
    return [1 / 0]
'''
STRANGE = (None, 3, "text", [1, "a", {}], {"a": [{"b": "c"}]}, 1e308, -1e308)
STRANGE += (float("nan"), float("inf"), 10**400, True, "\ud800 $x_$ <b>")


def _write(workdir, results, lines=()):
  workdir.mkdir(exist_ok=True)
  (workdir / "results.json").write_text(json.dumps(results))
  text = "\n".join(json.dumps(line) for line in lines)
  (workdir / "metrics-0.jsonl").write_text(text)
  return workdir


def _page(*workdirs):
  report(*workdirs, "--images=0")
  return Page((workdirs[0] / "report.html").read_text())


FIGURES = {
  "knn": {"knn_top1": 1.0},
  "linear_probe": {"linear_top1": 2.0},
  "transformation": {"transformation_accuracy": 3.0, "per_element": [1.0]},
  "collapse": {"effective_rank": 1.0, "images": 3},
  "symmetry": {"rotation": {"cosine": 1.0}},
  "regression": {"by_labelled": {"8": {"dos_error": 1.0}}},
  "of_nobody": {"score": 1.0},
}
RESULTS = {
  "step": 3,
  "config": {"epochs": 1, "knn": {"every_epochs": 1}, "evaluations": ["knn"]},
  "figures": FIGURES,
  "rows": {"knn": [["kNN", "1%", ""]]},
  "untrained": {"knn_top1": 1.0},
  "finetune": {"1%": {"finetune_top1": 1.0}},
  "training": {"wall_seconds": 1.0, "last_step": {"embedding_std": 0.1}},
  "environment": {"device_count": 1},
}


def _places(tree, path=()):
  for key, value in tree.items():
    yield (*path, key)
    if isinstance(value, dict):
      yield from _places(value, (*path, key))


def test_results_of_wrong_types_cost_no_page(tmp_path):
  """Each value in turn is of another kind, each in a run of its own."""
  workdirs = []
  for number, (*path, last) in enumerate(_places(RESULTS)):
    found = json.loads(json.dumps(RESULTS))
    holder = found
    for key in path:
      holder = holder[key]
    holder[last] = STRANGE[number % len(STRANGE)]
    if isinstance(found["config"], dict):
      workdirs.append(_write(tmp_path / f"{number}", found))
  page = _page(*workdirs)
  assert {"Results", "Config", "Environment"} <= set(page.headings)
  assert "results.json left out: it is not a JSON object" in page.text
  assert "in results.json left out: they have a wrong form" in page.text


@pytest.mark.parametrize("config", [None, [], "x", {"model": 3}])
def test_a_config_of_the_wrong_type_is_one_line(config, tmp_path):
  _write(tmp_path / "run", {"config": config})
  with pytest.raises(UsageError, match="results.json") as error:
    report(tmp_path / "run")
  assert "\n" not in str(error.value)


def test_what_is_nested_too_deeply_is_one_line(tmp_path):
  deep, deep_object = 1, 1
  for _ in range(500):
    deep, deep_object = [deep], {"a": deep_object}
  for number, value in enumerate((deep, deep_object)):
    workdir = _write(tmp_path / f"{number}", {"figures": {"knn": {"x": value}}})
    with pytest.raises(UsageError, match="is nested too deeply") as error:
      report(workdir, "--images=0")
    assert "\n" not in str(error.value)
  lines = [{"step": 1, "loss": deep}, {"step": 2, "loss": 1.0}]
  page = _page(_write(tmp_path / "lines", RESULTS, lines))
  assert "1 broken line(s) of metrics-*.jsonl left out" in page.text


def test_files_that_never_end_are_not_read(tmp_path):
  """Nor waited for."""
  workdir = _write(tmp_path / "run", RESULTS)
  (workdir / "metrics-0.jsonl").unlink()
  os.mkfifo(workdir / "metrics-0.jsonl")
  told = "cannot read metrics-*.jsonl (it is not a regular file)"
  assert told in _page(workdir).text
  (workdir / "results.json").unlink()
  for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
    make(workdir / "results.json")
    with pytest.raises(UsageError, match="it is not a regular file"):
      report(workdir, "--images=0")
    (workdir / "results.json").unlink()


def test_no_other_file_is_written_over(tmp_path):
  """Only an earlier page is replaced, no file of the run or of others."""
  workdir = _write(tmp_path / "run", RESULTS)
  os.mkfifo(tmp_path / "pipe")
  os.symlink("/dev/null", tmp_path / "device")
  for out in (workdir / "results.json", tmp_path / "pipe", tmp_path / "device"):
    before = os.lstat(out)
    with pytest.raises(UsageError, match="not a .* and would be overwritten"):
      report(workdir, "--images=0", f"--out={out}")
    assert os.path.samestat(before, os.lstat(out))
  (tmp_path / "empty").touch()
  for out in (tmp_path / "empty", tmp_path / "new", tmp_path / "new"):
    report(workdir, "--images=0", f"--out={out}")
    assert Page(out.read_text()).headings


def test_lines_of_wrong_types_are_left_out(tmp_path, capsys):
  """Steps that are no numbers, and numbers that no picture can show."""
  lines = [{"step": x, "loss": 1.0} for x in STRANGE]
  lines += [{"step": 2, "loss": x, "a$b$": 1.0} for x in STRANGE]
  lines += [[1], "x", None, {"loss": 1.0}, {"step": 4, "loss": 2.5}]
  page = _page(_write(tmp_path / "run", RESULTS, lines))
  wrong = sum(x["step"] != 3 for x in lines[: len(STRANGE)]) + 4
  assert f"{wrong} broken line(s) of metrics-*.jsonl left out" in page.text
  (curve,) = (x for x in page.all("img") if x["alt"].startswith("Total loss"))
  assert "3 at step 2, 2.5 at step 4" in curve["alt"]
  assert "broken line(s)" in capsys.readouterr().out


def test_names_are_shown_as_they_are(tmp_path):
  """Names of runs and curves are neither matplotlib formulas nor markup."""
  lines = [{"step": x, r"loss_$\frac$<b>": x} for x in (1, 2)]
  names = (r"$\frac{$", "_under<i>&", "a$b$", "\u3000 \N{SNOWMAN}")
  workdirs = [_write(tmp_path / x, RESULTS, lines) for x in names]
  page = _page(*workdirs)
  text = (workdirs[0] / "report.html").read_text()
  assert "<b>" not in text and "<i>" not in text
  assert "_under<i>&" in page.text and r"$\frac{$" in page.text
  assert any(r"$\frac$<b> loss" in x["alt"] for x in page.all("img"))
  assert "left out" not in page.text
  # What is drawn is the name, and no empty place in the legend.
  assert drawing.plain("_a $b$") == r" _a \$b\$"


def test_an_evaluation_that_fails_costs_its_part_alone(
  tmp_path, monkeypatch, capsys
):
  (tmp_path / "failing.py").write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  config = RESULTS["config"] | {"evaluations": ["knn", "failing:Failing"]}
  results = RESULTS | {"config": config, "rows": {}}
  results |= {"figures": FIGURES | {"failing": {"score": 12.5}}}
  page = _page(_write(tmp_path / "run", results))
  sys.modules.pop("failing")
  said = capsys.readouterr().out
  for line in (
    "left out: config.evaluations=failing:Failing, rows: KeyError: 'absent'",
    "left out: run, curves of failing: RuntimeError: no",
    "left out: pictures of failing: ZeroDivisionError: division by zero",
  ):
    assert line in page.text
    assert line in said
  assert "1.00%" in page.text and "12.5" in page.text


@pytest.mark.parametrize("name", ["results.json", "metrics-0.jsonl"])
@pytest.mark.parametrize(
  "kind", ["pipe", "device", "folder", "terabyte", "bytes"]
)
def test_only_regular_files_are_read(name, kind, tmp_path):
  """A pipe would be waited for, and a device never ends."""
  path = _write(tmp_path / "run", RESULTS) / name
  path.unlink()
  if kind == "pipe":
    os.mkfifo(path)
  elif kind == "device":
    path.symlink_to("/dev/zero")
  elif kind == "folder":
    path.mkdir()
  elif kind == "terabyte":  # which takes no room on the disk
    path.touch()
    os.truncate(path, 10**12)
  else:
    path.write_bytes(b"\xff\x00")
  if name == "metrics-0.jsonl":
    assert "metrics-*.jsonl" in _page(tmp_path / "run").text
    return
  with pytest.raises(UsageError, match="cannot read .*results.json") as error:
    report(tmp_path / "run")
  assert "\n" not in str(error.value)


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
  """Neither a pipe nor the link that names the page."""
  workdir, page = _write(tmp_path / "run", RESULTS), tmp_path / "page.html"
  os.mkfifo(tmp_path / "pipe")
  for out in (tmp_path / "pipe", "/dev/null"):
    with pytest.raises(UsageError, match="is not a regular file"):
      report(workdir, "--images=0", f"--out={out}")
  page.touch()
  (tmp_path / "link").symlink_to(page)
  report(workdir, "--images=0", f"--out={tmp_path / 'link'}")
  assert (tmp_path / "link").is_symlink()
  assert page.stat().st_size > 1000


@pytest.mark.filterwarnings("error")
def test_a_logarithm_of_nothing_positive_is_no_warning():
  lines = {"run": [(1, 0.0), (2, -1.0)]}
  png = figures.curves(lines, ["run"], x="step", y="norm", is_logarithmic=True)
  assert png.startswith(b"\x89PNG")
