"""Steps compiled ahead of time: the program and what it writes."""

import argparse
import dataclasses
import functools
import json
import pathlib

import aot_cases
import aot_compile
import aot_report
import hlo_collectives
import jax
import jax.numpy as jnp
import pytest

from essl_jax.devices import parallel


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--topology=v9-16"], "there are: v5e-16"),
    (
      ["--config=configs/absent.py"],
      "config file configs/absent.py does not exist",
    ),
    (["--config=configs/cifar_simclr.py:odd"], "unknown config variant 'odd'"),
    (["--variant=faster"], "must be published, rematerialize"),
    (["--text=absent", "--report_only"], "--text=absent: there is no such"),
  ],
)
def test_wrong_arguments_end_with_one_line(
  capsys, monkeypatch, arguments, message
):
  monkeypatch.chdir(pathlib.Path(__file__).parents[2])
  assert aot_compile.main(arguments) == 2
  error = capsys.readouterr().err
  assert message in error
  assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
  ("topology", "message"),
  [
    ("v5e-16", "no TPU compiler is installed: pip install -e '.[tpu]'"),
    ("h200", "no GPU compiler is installed: pip install -e '.[cuda]'"),
  ],
)
def test_a_missing_compiler_ends_with_one_line(
  capsys, monkeypatch, topology, message
):
  monkeypatch.chdir(pathlib.Path(__file__).parents[2])
  absent = dict.fromkeys(("tpu", "cuda"), ("no-such-package",))
  monkeypatch.setattr(aot_cases, "COMPILERS", absent)
  assert aot_compile.main([f"--topology={topology}"]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert len(error.splitlines()) == 1


def test_a_record_is_of_its_program_compiler_and_target(
  monkeypatch, documents, tmp_path, config_file
):
  """Only what has not changed is not compiled again."""
  compiled = []
  monkeypatch.setattr(aot_cases, "compiler", lambda platform: "jax")
  mesh = parallel.make_mesh(jax.devices())
  monkeypatch.setattr(aot_cases, "make_mesh", lambda topology: mesh)
  monkeypatch.setattr(
    aot_compile,
    "compile_lowered",
    lambda lowered, case, text: {"fits": True, "turn": compiled.append(text)},
  )
  recipe = tmp_path / "recipe.py"
  recipe.write_text(config_file.read_text().replace("digits", "cifar10"))
  case = aot_cases.Case(str(recipe), "h200", "micro_batches=1")
  turn = functools.partial(aot_compile.compile_case, case)
  assert turn() == turn()
  assert len(compiled) == 1
  turn(text=str(tmp_path))
  other = dataclasses.replace(
    aot_report.TOPOLOGIES["h200"], options={"target_config": "another GPU"}
  )
  monkeypatch.setitem(aot_report.TOPOLOGIES, "h200", other)
  turn()
  assert compiled == [None, str(tmp_path), None]


def test_the_plan_is_of_the_compilers_that_are_there(monkeypatch):
  nothing = argparse.Namespace(config=None, topology=None, variant=None)
  there = {"cuda": "a package"}
  monkeypatch.setattr(aot_cases, "compiler", there.get)
  found = {case.topology for case in aot_compile.cases(nothing)}
  assert found == {"h200", "h200-8"}
  there.clear()
  assert len(aot_compile.cases(nothing)) == len(aot_report.PLAN)


def test_slices_alone_are_those_of_the_plan():
  names = lambda **given: [
    (case.config, case.topology)
    for case in aot_compile.cases(
      argparse.Namespace(
        **{"config": None, "topology": None, "variant": None} | given
      )
    )
  ]
  of_plan = [(config, slice_) for config, slice_, _ in aot_report.PLAN]
  assert names(topology=["h200"]) == [x for x in of_plan if x[1] == "h200"]
  # What is in no plan is compiled for, too.
  assert len(names(topology=["v4-64", "h200"])) == 6 + 3
  assert names(topology=["h200"], config=["a.py"]) == [("a.py", "h200")]


def test_a_gpu_that_is_not_there_is_compiled_for():
  if aot_cases.compiler("cuda") is None:
    pytest.skip("JAX's CUDA plugin is not installed")
  mesh = aot_cases.make_mesh("h200-8")
  assert mesh.size == 8
  assert mesh.devices[0].device_kind == "NVIDIA H200"
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(parallel.AXIS)
  )
  rows = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=sharding)
  text = jax.jit(lambda x: x.sum(0)).lower(rows).compile().as_text()
  exchanged = hlo_collectives.collectives(text)
  assert exchanged == {"all-reduce": {"count": 1, "bytes": 16, "largest": 16}}
  assert hlo_collectives.overlaps(text) == {"count": 0, "bytes": 0}


def _record(**fields):
  bound = {"step_seconds": 0.004, "images_per_second": 1000.0, "hours": 2.5}
  return {
    "config": "configs/cifar_simsiam.py",
    "topology": "v5e-16",
    "setting": "published",
    "images_per_chip": 32,
    "epochs": 800,
    "matrix_flops": 271660941312,
    "bound": bound,
    **fields,
  }


@pytest.mark.parametrize(
  ("message", "size"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
      " for HLO temporaries (46.50G) exceeds available HBM (15.75G).",
      int(46.5 * 2**30),
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory"
      " in memory space hbm. Used 512.0M of 15.75G hbm.",
      2**29,
    ),
  ],
)
def test_steps_that_are_too_large_are_read_from_the_error(message, size):
  record = aot_compile.out_of_memory(jax.errors.JaxRuntimeError(message))
  assert not record["fits"]
  assert record["hbm_bytes"] == size


def test_other_errors_of_the_compiler_are_not_hidden():
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    aot_compile.out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: no"))


@pytest.fixture
def documents(monkeypatch, tmp_path):
  """A folder of documents and records in place of the repository's."""
  block = "<!-- {0}: begin -->\n<!-- {0}: end -->\n"
  for name in ("tpu.md", "gpu.md"):
    text = f"before\n{block.format('table')}{block.format('parts')}after\n"
    (tmp_path / name).write_text(text)
  monkeypatch.setattr(aot_report, "DOCUMENTS", tmp_path)
  monkeypatch.setattr(aot_compile, "RESULTS", tmp_path)
  return tmp_path


def test_a_step_that_does_not_fit_fails_in_one_line(
  capsys, monkeypatch, documents
):
  record = _record(fits=False, hbm_bytes=20 * 2**30, compile_seconds=3.0)

  def compile_case(case, **options):
    (documents / f"{case.name}.json").write_text(json.dumps(record))
    return record

  monkeypatch.setattr(aot_compile, "compile_case", compile_case)
  config = ["--config=configs/cifar_simsiam.py", "--topology=v5e-16"]
  assert aot_compile.main(config) == 1
  error = capsys.readouterr().err
  assert error.startswith("FAIL cifar_simsiam__v5e-16__published: does not fit")
  assert "20 of 16 GiB" in error
  assert len(error.splitlines()) == 1
  text = (documents / "tpu.md").read_text()
  assert "| cifar_simsiam | v5e-16 | published | 32 | **20 of 16" in text
  assert "| cifar_simclr | v5e-16 | published | not compiled yet |" in text
  assert text.startswith("before\n") and text.endswith("after\n")
  assert "h200" not in text
  assert "| cifar_simsiam | h200 |" in (documents / "gpu.md").read_text()


def test_the_table_of_gpus_has_kernels_and_parts(documents):
  record = _record(
    topology="h200",
    fits=True,
    hbm_bytes=2**31,
    collectives={"all-reduce": {"count": 2, "bytes": 2**22, "largest": 2**21}},
    overlaps={"count": 1, "bytes": 2**21},
    rearrangements={
      "copy": {"count": 3, "bytes": 2**20},
      "transpose": {"count": 1, "bytes": 2**20},
    },
    kernels={
      "count": 1234,
      "bytes": 48e9,
      "parts": [
        {
          "part": "projector",
          "direction": "backward",
          "count": 1000,
          "bytes": 36e9,
          "flops": 3e12,
        },
        {
          "part": "optimizer",
          "direction": "",
          "count": 234,
          "bytes": 12e9,
          "flops": 0,
        },
      ],
    },
  )
  (documents / "one.json").write_text(json.dumps(record))
  aot_report.write(documents)
  text = (documents / "gpu.md").read_text()
  # Of 141 GB and 4.8 TB/s.
  cells = "2 of 131.32 | 2 | 4 | 1 | 2 | 4 | 2 | 1,234 | 10.0 | 0.27 | 4.0"
  assert f"| cifar_simsiam | h200 | published | 32 | {cells} |" in text
  assert "| projector, backward | 1,000 | 36.00 | 7.50 | 3000.0 |" in text
  assert "| optimizer | 234 | 12.00 | 2.50 | – |" in text
  assert "| **step** | 1,234 | 48.00 | 10.00 | 3000.0 |" in text
