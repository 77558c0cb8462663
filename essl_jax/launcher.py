"""Where this process stands among others: from flags or from its launcher."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib.util
import os
import re
from typing import Any
import urllib.error
import urllib.request

from essl_jax.errors import UsageError

_FIRST_PORT = 61440  # the 4096 ports above those that Linux hands out
_TPU_PORT = 8482  # of jax.distributed on TPU pods, open between their hosts
_METADATA_SECONDS = 5.0

Found = dict[str, Any]
Environment = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Place:
  """One of several processes that train together.

  Attributes:
    coordinator: HOST:PORT at which process 0 is reached.
    num_processes: of the run.
    process_id: from 0.
    local_device_ids: the GPUs of its host that are its own; None for all.
    found_by: what said so: the flags, SLURM, Open MPI or a TPU pod.
  """

  coordinator: str
  num_processes: int
  process_id: int
  local_device_ids: tuple[int, ...] | None = None
  found_by: str = "the flags"


def find(
  *,
  distributed: bool | None = None,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  local_device_ids: Sequence[int] | None = None,
  environment: Environment = os.environ,
) -> Place | None:
  """Tells whether this process is one of several, and which.

  Flags come before what the launcher says. `docs/clusters.md` has the rules.

  Args:
    distributed: True insists on others, False runs alone, None looks.
    coordinator: HOST:PORT of process 0.
    num_processes: of the run.
    process_id: of this process, from 0.
    local_device_ids: GPUs of this host to use.
    environment: variables that the launcher has set.

  Returns:
    The place, or None for a process that runs alone.

  Raises:
    UsageError: incomplete or contradicting flags, or nobody to join.
  """
  given = {
    name: value
    for name, value in {
      "coordinator": coordinator,
      "num_processes": num_processes,
      "process_id": process_id,
      "local_device_ids": local_device_ids and tuple(local_device_ids),
    }.items()
    if value is not None
  }
  if distributed is False:
    if given:
      raise UsageError(
        f"--distributed=false runs alone, yet --{next(iter(given))} is given:"
        " leave one of them out"
      )
    return None
  found = _detect(environment)
  found_by = found.pop("found_by", "the flags")
  alone = found.get("num_processes", 1) == 1
  if not given and alone:
    if distributed and not found:
      raise UsageError(
        "--distributed found no TPU pod, SLURM step or Open MPI: give"
        " --coordinator=HOST:PORT, --num_processes and --process_id, or leave"
        " --distributed out to run alone"
      )
    return None
  place = found | given
  missing = [
    f"--{name}"
    for name in ("coordinator", "num_processes", "process_id")
    if name not in place
  ]
  if missing:
    known = ", ".join(f"{name} {value}" for name, value in place.items())
    raise UsageError(
      f"{' and '.join(missing)} missing ({known} known): give --coordinator="
      "HOST:PORT, --num_processes=N and --process_id=I together"
    )
  return _checked(Place(**place, found_by=found_by))


def _checked(place: Place) -> Place | None:
  """Refuses impossible numbers; None where there is only one process."""
  if place.num_processes < 1:
    raise UsageError(
      f"--num_processes is {place.num_processes}: it has to be 1 or more"
    )
  if not 0 <= place.process_id < place.num_processes:
    raise UsageError(
      f"--process_id {place.process_id} is not among the"
      f" {place.num_processes} processes: they are numbered from 0 to"
      f" {place.num_processes - 1}"
    )
  split_address(place.coordinator)
  return place if place.num_processes > 1 else None


def hint(place: Place) -> str:
  """Returns what to do where the others of a place are not found."""
  if place.found_by == "the flags":
    return "or check --coordinator, --num_processes and --process_id"
  return f"or run alone with --distributed=false ({place.found_by} named them)"


def split_address(address: str) -> tuple[str, int]:
  """Returns the host and port of HOST:PORT; IPv6 stands in brackets.

  Raises:
    UsageError: if it is something else.
  """
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise UsageError(
      f"--coordinator {address} is not HOST:PORT: give the address of process"
      " 0 and a free port there, such as 10.0.0.1:12345"
    )
  return host.strip("[]"), int(port)


def _detect(environment: Environment) -> Found:
  """What the launcher says; empty where there is none."""
  for look in (_open_mpi, _slurm, _tpu):
    if found := look(environment):
      return found
  return {}


def _slurm(environment: Environment) -> Found:
  """A step started by srun; the shell of an allocation is none.

  The step's own size counts: SLURM_NTASKS is the whole allocation's in an
  interactive shell, which would wait for tasks that nobody has started.
  """
  needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")
  if any(name not in environment for name in needed):
    return {}
  # "node[001-003,7],b" begins with node001.
  first = re.sub(r",(?![^\[]*\]).*", "", environment["SLURM_STEP_NODELIST"])
  host = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)
  number = int(environment["SLURM_JOB_ID"])
  number += int(environment.get("SLURM_STEP_ID", 0))  # steps run side by side
  found: Found = {
    "coordinator": f"{host}:{_port(environment, number)}",
    "num_processes": int(environment.get("SLURM_STEP_NUM_TASKS", 1)),
    "process_id": int(environment["SLURM_PROCID"]),
    "found_by": "SLURM",
  }
  tasks = _tasks_by_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
  node = int(environment.get("SLURM_NODEID", 0))
  is_shared = node < len(tasks) and tasks[node] > 1
  if is_shared and "SLURM_GPUS_PER_TASK" not in environment:
    return found | _one_gpu(environment, environment["SLURM_LOCALID"])
  return found


def _tasks_by_node(text: str) -> list[int]:
  """SLURM's "4(x2),3" as [4, 4, 3]."""
  tasks: list[int] = []
  for count, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
    tasks += [int(count)] * int(repeated or 1)
  return tasks


def _open_mpi(environment: Environment) -> Found:
  """A rank started by mpirun; Open MPI 5 no longer names a host."""
  if "OMPI_COMM_WORLD_SIZE" not in environment:
    return {}
  found: Found = {
    "num_processes": int(environment["OMPI_COMM_WORLD_SIZE"]),
    "process_id": int(environment["OMPI_COMM_WORLD_RANK"]),
    "found_by": "Open MPI",
  }
  # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911 or tcp6://[fe80::1,...]:1
  uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
  match = re.match(r"(\d+)\..*?tcp6?://(\[?)([^],]+?)(?:[],]|:\d+$)", uri)
  if match:
    port = _port(environment, int(match[1]) // 4096)
    closing = "]" if match[2] else ""
    found["coordinator"] = f"{match[2]}{match[3]}{closing}:{port}"
  if int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)) > 1:
    rank = environment["OMPI_COMM_WORLD_LOCAL_RANK"]
    return found | _one_gpu(environment, rank)
  return found


def _one_gpu(environment: Environment, local_id: str) -> Found:
  """The GPU of a process that shares its host; nothing if it sees but one."""
  visible = environment.get("CUDA_VISIBLE_DEVICES", "")
  if visible and "," not in visible:
    return {}
  return {"local_device_ids": (int(local_id),)}


def _port(environment: Environment, number: int) -> str:
  """A port that all processes of a job compute alike."""
  return environment.get(
    "JAX_COORDINATOR_PORT", str(_FIRST_PORT + number % 4096)
  )


def _tpu(environment: Environment) -> Found:
  """A host of a TPU pod: its variables, or the metadata of Compute Engine."""
  platforms = environment.get("JAX_PLATFORMS") or "tpu"
  if "tpu" not in platforms.split(","):
    return {}
  names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
    "TPU_WORKER_HOSTNAMES"
  )
  if names:
    lookup: Callable[[str], str] = lambda name: environment.get(name, "")
    index = environment.get("TPU_WORKER_ID", "0")
  else:
    # JAX sets the variable on its import where it sees no TPU.
    if environment.get("TPU_SKIP_MDS_QUERY") or not _has_libtpu():
      return {}
    names = _metadata(environment, "worker-network-endpoints")
    index = _metadata(environment, "agent-worker-number")
    if not names or not index:
      return {}
    lookup = _with_tpu_env(environment)
  hosts = [_host(worker) for worker in names.split(",")]
  slices = int(lookup("MEGASCALE_NUM_SLICES") or 1)
  slice_id = int(lookup("MEGASCALE_SLICE_ID") or 0)
  first = lookup("MEGASCALE_COORDINATOR_ADDRESS").split(":")[0] or hosts[0]
  port = environment.get("JAX_COORDINATOR_PORT", str(_TPU_PORT))
  return {
    "coordinator": f"{first}:{port}",
    "num_processes": len(hosts) * slices,
    "process_id": int(index) + slice_id * len(hosts),
    "found_by": "the TPU pod",
  }


def _has_libtpu() -> bool:
  return importlib.util.find_spec("libtpu") is not None


def _host(worker: str) -> str:
  """The host of "host", "host:port" or Compute Engine's "name:id:host"."""
  parts = worker.strip().split(":")
  return parts[2] if len(parts) == 3 else parts[0]


def _metadata(environment: Environment, key: str) -> str:
  """An attribute of a Compute Engine machine; empty where there is none."""
  server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    f"http://{server}/computeMetadata/v1/instance/attributes/{key}",
    headers={"Metadata-Flavor": "Google"},
  )
  try:
    with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
      return answer.read().decode().strip()
  except (OSError, urllib.error.URLError):
    return ""


def _with_tpu_env(environment: Environment) -> Callable[[str], str]:
  """Looks variables up, then in the metadata's lines NAME: 'value'."""
  lines = _metadata(environment, "tpu-env").splitlines()
  there = {
    name.strip(): value.strip().strip("'")
    for name, _, value in (line.partition(":") for line in lines)
  }
  return lambda name: environment.get(name) or there.get(name, "")
