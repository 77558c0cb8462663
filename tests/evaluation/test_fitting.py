"""The loop of small heads: against plain NumPy, order of events, resuming."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from essl_jax import augment
from essl_jax.devices import parallel
from essl_jax.evaluation import fitting
from essl_jax.evaluation.saved import Saved
from essl_jax.storage.preemption import Stopped

RATE, PER_EPOCH = 0.1, 3
DATA = np.random.default_rng(0).standard_normal((8, 8, 2)).astype(np.float32)


def loss(params, variables, batch):
  """A line through points [N, 2]; the variables count batches."""
  error = params["slope"] * batch[:, 0] - batch[:, 1] + variables["offset"]
  return jnp.mean(error**2), variables | {"seen": variables["seen"] + 1}


def fixed(params, variables, batch):
  """The same, and leaves the variables as they are."""
  return loss(params, variables, batch)[0], variables


def problem(is_fixed=False):
  function = fixed if is_fixed else loss
  return fitting.Problem(function, optax.sgd(RATE), is_fixed=is_fixed)


def training(made, slope, epochs, events, mesh):
  """Batches are the rows of DATA, turn by turn."""

  def batches(start):
    events.append(("from", start))
    hosts = (DATA[i % len(DATA)] for i in range(start, 10**6))
    return parallel.stream(hosts, mesh)

  return fitting.Training(
    create=lambda: made.begin(
      jax.random.key(3),
      {"slope": jnp.float32(slope)},
      {"offset": jnp.float32(0.5), "seen": jnp.int32(0)},
    ),
    batches=batches,
    epochs=epochs,
    steps_per_epoch=PER_EPOCH,
    figures=lambda state: (
      float(state.params["slope"]),
      int(state.variables["seen"]),
    ),
    after_epoch=lambda state: events.append(("epoch", int(state.step))),
  )


def plain(slope, steps):
  """The slope after stochastic gradient descent, in plain NumPy."""
  for i in range(steps):
    x, y = DATA[i % len(DATA)].T
    slope -= RATE * np.mean(2 * x * (slope * x - y + 0.5))
  return slope


def run(
  events,
  path=None,
  *,
  devices=1,
  every=None,
  stop=None,
  error=Stopped,
  is_fixed=False,
):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  made = problem(is_fixed)

  def progress(done, total):
    events.append((done, total))
    if done == stop:
      raise error

  saved = Saved(path, mesh, dtype=np.float32)
  saved.claim({})
  trainings = [
    training(made, slope, epochs, events, mesh)
    for slope, epochs in ((2.0, 1), (-1.0, 3))
  ]
  return fitting.run(
    made,
    trainings,
    mesh,
    saved=saved,
    save_every_epochs=every,
    progress=progress,
  )


@pytest.mark.parametrize("devices", [1, 8])
def test_trainings_follow_a_plain_loop(devices):
  events = []
  rows = run(events, devices=devices)
  expected = [(plain(2.0, 3), 3), (plain(-1.0, 9), 9)]
  np.testing.assert_allclose(rows, expected, rtol=1e-5)
  steps = [(done, 12) for done in range(1, 13)]
  assert [x for x in events if x in steps] == steps
  # After an epoch's last step, and not in between.
  assert events[:5] == [("from", 0), *steps[:3], ("epoch", 3)]
  assert events[5:10] == [("from", 0), *steps[3:6], ("epoch", 3)]
  assert [x for x in events if "epoch" in x][1:] == [
    ("epoch", 3),
    ("epoch", 6),
    ("epoch", 9),
  ]


@pytest.mark.parametrize("what", ["file for folder", "folder", "pipe"])
def test_what_is_in_the_way_of_checkpoints_is_set_aside(what, tmp_path, capsys):
  """Before work begins; otherwise it would fail or wait forever."""
  path = tmp_path / "fit" / "a.npz"
  damaged = path.parent if what == "file for folder" else path
  if what == "file for folder":
    damaged.touch()
  elif what == "folder":
    path.mkdir(parents=True)
  else:
    path.parent.mkdir()
    os.mkfifo(path)
  assert len(run([], path, every=1)) == 2
  aside = damaged.with_name(f"{damaged.name}.damaged-1")
  assert aside.exists()
  assert path.is_file()
  assert f"it is now {aside.name}" in capsys.readouterr().out


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt])
@pytest.mark.parametrize(
  ("every", "stop", "start"),
  [(1, 2, 2), (1, 8, 5), (2, 8, 5), (None, 8, 0), (None, 2, 0)],
)
def test_stopped_trainings_go_on(tmp_path, error, every, stop, start):
  expected = run([])
  path = tmp_path / "probe" / "fitting.npz"
  with pytest.raises(error):
    run([], path, every=every, stop=stop, error=error)
  if error is KeyboardInterrupt and every:  # nothing but whole epochs is there
    start = start // PER_EPOCH * PER_EPOCH if every == 1 else 0
  events = []
  assert run(events, path, every=every) == expected
  assert events[0] == ("from", start)
  before = 3 if stop > 3 else 0
  assert events[1] == (before + start + 1, 12)
  assert run(events := [], path) == expected and not events


@pytest.mark.parametrize(("is_fixed", "leaves"), [(False, 5), (True, 3)])
def test_fixed_variables_are_not_saved(tmp_path, is_fixed, leaves):
  """Step, key and slope are; offset and count where they may change."""
  path = tmp_path / "probe" / "fitting.npz"
  with pytest.raises(Stopped):
    run([], path, every=1, stop=2, is_fixed=is_fixed)
  with np.load(path) as file:
    assert sum(name.startswith("leaf") for name in file.files) == leaves
  rows = run([], path, every=1, is_fixed=is_fixed)
  seen = (0, 0) if is_fixed else (3, 9)
  expected = zip((plain(2.0, 3), plain(-1.0, 9)), seen, strict=True)
  np.testing.assert_allclose(rows, list(expected), rtol=1e-5)


def test_a_view_draws_by_image_and_step():
  """The same views on one and on four devices, other ones at each step."""
  images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
  view = augment.View(size=4, mean=(0.5,) * 3, std=(0.5,) * 3)
  seen = lambda params, _, batch: (
    jnp.sum(params * 0)
    + jnp.sum(batch["weight"] * batch["image"].mean((1, 2, 3))),
    None,
  )
  made = fitting.Problem(seen, optax.sgd(RATE), view)
  found = []
  for devices in (1, 4):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    step = parallel.map_step(fitting.make_step(made, parallel.AXIS), mesh)
    batch = {"image": images, "weight": np.ones(4, np.float32)}
    state = parallel.replicate(
      made.begin(jax.random.key(1), jnp.zeros(2)), mesh
    )
    losses = []
    for _ in range(2):
      state, value = step(state, parallel.shard(batch, mesh))
      losses.append(float(value) * devices)
    found.append(losses)
  np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
  assert found[0][0] != found[0][1]


def test_flipped_bits_of_a_checkpoint_are_seen(tmp_path, capsys):
  """Each in its byte: set aside with a line, or all that was saved is there."""
  path = tmp_path / "fit" / "a.npz"
  mesh = parallel.make_mesh(jax.devices()[:1])
  saved = Saved(path, mesh, dtype=np.float32)
  saved.claim({})
  state = {"a": jnp.arange(3.0), "b": jnp.int32(7)}
  like = {"a": jnp.ones(3), "b": jnp.int32(1)}
  saved.save([(1.5, 2)], state)
  whole = path.read_bytes()
  random = np.random.default_rng(0)
  seen = 0
  for place in range(len(whole)):
    flipped = bytearray(whole)
    flipped[place] ^= 1 << random.integers(8)
    path.write_bytes(flipped)
    saved.claim({})
    counts, found = saved.counts(), saved.restore(like)
    if counts or np.any(found["b"] != 1):
      assert counts == [(1.5, 2)], place
      if found["b"] != 1:
        np.testing.assert_array_equal(found["a"], state["a"])
        assert found["b"] == 7
    if not path.exists():
      seen += 1
      assert capsys.readouterr().out.count("\n") <= 1
      (tmp_path / "fit" / "a.npz.damaged-1").unlink()
  assert seen > len(whole) / 4
