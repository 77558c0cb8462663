"""Photonic data sets: generation, interruptions, reading, wrong files."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from essl_jax.errors import UsageError
from essl_jax.photonics import cells, dataset, generate, settings, storage

_SMALL = [
  "--kind=blob",
  "--labelled=5",
  "--validation=1",
  "--unlabelled=6",
  "--workers=1",
]


def _hashes(found):
  return [hashlib.sha256(x.tobytes()).hexdigest() for x in found.permittivity]


@pytest.fixture
def fast(monkeypatch):
  """Makes parts small and labels cheap."""
  real = generate.make_part

  def make(kind, seed, split, indices):
    arrays = real(kind, seed, "unlabelled", indices)
    made = [cells.make(kind, seed, split, i) for i in indices]
    arrays["permittivity"] = np.stack(made)
    if split != "unlabelled":
      arrays["density_of_states"] = np.ones((len(indices), 500), np.float32)
    return arrays

  monkeypatch.setattr(generate, "make_part", make)
  monkeypatch.setattr(generate, "LABELLED_PART", 2)
  monkeypatch.setattr(generate, "UNLABELLED_PART", 4)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
  directory = tmp_path_factory.mktemp("photonics") / "blob"
  generate.main([*_SMALL, f"--out={directory}"])
  return directory


def test_all_files_are_there_and_hold_what_they_should(generated):
  names = {path.name for path in generated.iterdir()}
  splits = {f"{split}.h5" for split in cells.SPLITS}
  assert names == splits | {"manifest.json", "report.png", ".lock"}
  manifest = json.loads((generated / "manifest.json").read_text())
  for split, count in manifest["settings"]["counts"].items():
    found = dataset.load(generated, split)
    assert found.permittivity.shape == (count, 32, 32)
    assert found.permittivity.dtype == np.float32
    np.testing.assert_array_equal(
      found.permittivity[-1], cells.make("blob", 0, split, count - 1)
    )
    digest = hashlib.sha256((generated / f"{split}.h5").read_bytes())
    assert manifest["sha256"][f"{split}.h5"] == digest.hexdigest()
    if split == "unlabelled":
      assert found.density_of_states is None
    else:
      assert found.density_of_states.shape == (count, 500)
      assert found.density_of_states.dtype == np.float32
      assert 2 < found.density_of_states[:, 100:400].mean() < 8
  assert manifest["settings"]["counts"] == {
    "unlabelled": 6,
    "train": 3,
    "validation": 1,
    "test": 2,
  }


def test_the_default_counts_are_the_papers():
  found = settings.make("blob", 0, 5000, 15000)["counts"]
  assert found["train"] == 3000 and found["test"] == 2000


def test_the_same_command_again_changes_nothing(generated):
  times = lambda: {x.name: x.stat().st_mtime_ns for x in generated.iterdir()}
  before = times()
  generate.main([*_SMALL, f"--out={generated}"])
  assert times() == before | {".lock": times()[".lock"]}


def test_a_damaged_file_is_not_certified(fast, tmp_path):
  generate.main([*_SMALL, f"--out={tmp_path}"])
  path, before = tmp_path / "train.h5", storage.read_manifest(tmp_path)
  content = path.read_bytes()
  path.write_bytes(content[:-100])
  message = r"train.h5 does not match its digest in manifest.json: delete it"
  with pytest.raises(UsageError, match=message):
    generate.main([*_SMALL, f"--out={tmp_path}"])
  assert storage.read_manifest(tmp_path) == before
  path.unlink()
  generate.main([*_SMALL, f"--out={tmp_path}"])
  assert path.read_bytes() == content


def test_other_settings_are_refused(generated):
  for change, message in (
    ("--seed=1", "--seed was 0 when .* started, and is 1 now: give"),
    ("--kind=gpm", "--kind was blob when .* started, and is gpm now"),
    ("--labelled=8", "--labelled was 5 when .* started, and is 8 now: give"),
    ("--test=1", "--test was 2 when .* started, and is 1 now: give"),
  ):
    with pytest.raises(UsageError, match=message):
      generate.main([*_SMALL, f"--out={generated}", change])


def test_a_second_process_is_refused(generated):
  with (
    storage.claim(generated, storage.read_manifest(generated)["settings"]),
    pytest.raises(UsageError, match="another process"),
  ):
    generate.main([*_SMALL, f"--out={generated}"])


def test_bands_are_solved_on_the_cpu(fast, tmp_path, monkeypatch):
  used = []
  make = generate.make_part

  def spy(*arguments):
    used.append(jnp.ones(1).device)
    return make(*arguments)

  monkeypatch.setattr(generate, "make_part", spy)
  with jax.default_device(jax.devices()[3]):
    generate.main([*_SMALL, f"--out={tmp_path / 'a'}"])
  assert set(used) == {jax.local_devices(backend="cpu")[0]}

  def none(backend):
    raise RuntimeError(f"Unknown backend {backend}")

  monkeypatch.setattr(jax, "local_devices", none)
  with pytest.raises(UsageError, match="JAX_PLATFORMS leaves out the CPU"):
    generate.main([*_SMALL, f"--out={tmp_path / 'b'}"])


def test_no_cell_is_shared_between_splits_or_seeds(fast, tmp_path):
  found = []
  for seed in (0, 1):
    arguments = [*_SMALL, f"--out={tmp_path / str(seed)}", f"--seed={seed}"]
    generate.main(arguments)
    for split in cells.SPLITS:
      found += _hashes(dataset.load(tmp_path / str(seed), split))
  assert len(found) == len(set(found)) == 2 * 12


def test_a_full_disk_loses_nothing(fast, tmp_path, monkeypatch):
  whole, broken = tmp_path / "whole", tmp_path / "broken"
  generate.main([*_SMALL, f"--out={whole}"])
  real, written = os.fsync, []

  def fill(limit):
    def fsync(file):
      written.append(file)
      if len(written) > limit:
        raise OSError(errno.ENOSPC, "No space left on device")
      real(file)

    written.clear()
    monkeypatch.setattr(os, "fsync", fsync)

  # The manifest, 6 parts, 4 files with their digests, and the picture.
  for limit in (0, 1, 1, 2, 2, 0, 1, 1, 2, 0, 3, 2, 0):
    fill(limit)
    with pytest.raises(UsageError, match="no space left .* same command"):
      generate.main([*_SMALL, f"--out={broken}"])
    assert not list(broken.rglob("*.tmp"))
  fill(100)
  generate.main([*_SMALL, f"--out={broken}"])
  for split in cells.SPLITS:
    name = f"{split}.h5"
    assert (whole / name).read_bytes() == (broken / name).read_bytes()


def test_damaged_parts_are_made_again(fast, tmp_path):
  asked = settings.make("blob", 0, 5, 6, validation=1)
  with storage.claim(tmp_path, asked):
    made = generate.make_part("blob", 0, "train", range(2))
    storage.write_part(tmp_path, "train", made)
  part = next((tmp_path / "parts").iterdir())
  part.write_bytes(part.read_bytes()[:100])
  assert storage.read_part(tmp_path, "train", range(2)) is None
  generate.main([*_SMALL, f"--out={tmp_path}"])
  assert len(set(_hashes(dataset.load(tmp_path, "train")))) == 3


@pytest.mark.slow
def test_a_killed_program_resumes(tmp_path):
  """After kill -9 with two workers and Ctrl-C, no cell is lost or twice."""
  command = [sys.executable, "-m", "essl_jax.photonics.generate", "--kind=gpm"]
  command += ["--labelled=20", "--unlabelled=2000", f"--out={tmp_path / 'd'}"]
  command += ["--validation=0", "--workers=2"]

  def start():
    return subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  parts = lambda: len(list(tmp_path.glob("d/parts/*.npz")))

  def wait_for_another_part(before):
    deadline = time.monotonic() + 60
    while parts() <= before:
      assert time.monotonic() < deadline
      time.sleep(0.05)

  program = start()
  wait_for_another_part(0)
  program.send_signal(signal.SIGKILL)
  program.communicate()
  before = parts()  # the killed program may have left some
  program = start()
  wait_for_another_part(before)
  program.send_signal(signal.SIGINT)
  _, errors = program.communicate(timeout=60)
  assert program.returncode == 130
  assert errors.startswith("interrupted: ") and errors.count("\n") == 1
  program = start()
  _, errors = program.communicate(timeout=120)
  assert program.returncode == 0, errors
  hashes = []
  for split, count in (("unlabelled", 2000), ("train", 12), ("test", 8)):
    found = dataset.load(tmp_path / "d", split).permittivity
    assert len(found) == count
    with h5py.File(tmp_path / "d" / f"{split}.h5") as file:
      np.testing.assert_array_equal(file["index"], np.arange(count))
    hashes += _hashes(dataset.load(tmp_path / "d", split))
    for index in (0, count // 2, count - 1):
      expected = cells.make("gpm", 0, split, index)
      np.testing.assert_array_equal(found[index], expected)
  assert len(set(hashes)) == len(hashes) == 2020


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--kind=star"], "invalid choice"),
    (["--kind=blob", "--labelled=-5"], "--labelled=-5 must be 0 or more"),
    (["--kind=blob", "--labelled=5", "--test=6"], "--test=6 is more than"),
    (["--kind=blob", "--labelled=9"], "--labelled=9 leaves no cells to valid"),
    (["--kind=blob", "--labelled=0", "--unlabelled=0"], "no cells"),
    (["--kind=blob", "--workers=0"], "--workers=0"),
    (["--kind=blob", "--seed=-1"], "--seed=-1"),
  ],
)
def test_wrong_flags_are_told(tmp_path, arguments, message):
  with pytest.raises(UsageError, match=message) as caught:
    generate.main([*arguments, f"--out={tmp_path / 'd'}"])
  assert "\n" not in str(caught.value)


def test_an_empty_directory_name_is_refused():
  with pytest.raises(UsageError, match="--out: is empty: give a directory"):
    generate.main(["--kind=blob", "--out="])


def test_a_foreign_directory_is_refused(tmp_path):
  for number, (name, message) in enumerate(
    {
      "train.h5": "holds train.h5 but no manifest",
      "parts/train-00000000.npz": "holds parts but no manifest",
    }.items()
  ):
    path = tmp_path / str(number) / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
      generate.main([*_SMALL, f"--out={tmp_path / str(number)}"])
  (tmp_path / "manifest.json").write_text('{"settings": 3}')
  with pytest.raises(UsageError, match="manifest.json holds no settings: give"):
    generate.main([*_SMALL, f"--out={tmp_path}"])


def test_a_home_of_nobody_is_refused():
  arguments = ["--kind=blob", "--out=~nobody-of-that-name/x"]
  with pytest.raises(UsageError, match="home of a user who does not exist"):
    generate.main(arguments)
