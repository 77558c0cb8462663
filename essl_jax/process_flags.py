"""Flags of programs that run as several processes."""

import re

from absl import flags

from essl_jax.devices import processes
from essl_jax.errors import UsageError

DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  None,
  "Whether to join other processes: true requires it, false runs alone; by"
  " default the run joins those that JAX finds (docs/clusters.md).",
)
COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of process 0, if JAX does not find it."
)
NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Number of processes that train together."
)
PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Number of this process, from 0."
)
LOCAL_DEVICE_IDS = flags.DEFINE_list(
  "local_device_ids",
  None,
  "GPUs of this host to use, such as 0,1; by default all, but only one per"
  " SLURM task or Open MPI rank.",
)
JOIN_TIMEOUT = flags.DEFINE_float(
  "join_timeout", 300.0, "Seconds to wait for the other processes.", 1.0
)
HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  "heartbeat_timeout",
  100,
  "Seconds without a heartbeat after which a process counts as dead.",
  1,
)


def join() -> None:
  """Joins the other processes that the flags or the launcher name.

  Raises:
    UsageError: wrong flags, or as in `processes.initialize`.
  """
  ids = LOCAL_DEVICE_IDS.value
  if ids is not None and not (ids and all(x.isdecimal() for x in ids)):
    raise UsageError(
      f"--local_device_ids={','.join(ids)} are not numbers: give those of this"
      " host's GPUs, such as 0,1"
    )
  address = COORDINATOR.value
  if address is not None:
    found = re.fullmatch(r".+:(\d+)", address)
    if not found or not 0 < int(found[1]) < 65536:
      raise UsageError(
        f"--coordinator={address} is not HOST:PORT: give the address of process"
        " 0 and a free port there, such as 10.0.0.1:12345"
      )
  processes.initialize(
    distributed=DISTRIBUTED.value,
    coordinator=address,
    num_processes=NUM_PROCESSES.value,
    process_id=PROCESS_ID.value,
    local_device_ids=None if ids is None else [int(x) for x in ids],
    join_timeout=JOIN_TIMEOUT.value,
    heartbeat_timeout=HEARTBEAT_TIMEOUT.value,
  )
