"""Which of several processes this is, by the flags and the launchers."""

import http.server
import threading

import pytest

from essl_jax import launcher
from essl_jax.errors import UsageError

SLURM = {
  "SLURM_JOB_ID": "5000",
  "SLURM_STEP_ID": "0",
  "SLURM_STEP_NODELIST": "node[007-009,12]",
  "SLURM_STEP_NUM_TASKS": "4",
  "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
  "SLURM_NTASKS": "4",
  "SLURM_NODEID": "2",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
}
OPEN_MPI = {
  "OMPI_COMM_WORLD_SIZE": "2",
  "OMPI_COMM_WORLD_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
  "OMPI_COMM_WORLD_LOCAL_RANK": "0",
  "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
NO_TPU = {"JAX_PLATFORMS": "cuda,cpu"}
POD = {
  "TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc,t-2.svc,t-3.svc",
  "TPU_WORKER_ID": "3",
}


def find(environment=None, **flags):
  return launcher.find(environment=NO_TPU | (environment or {}), **flags)


def test_alone_without_flags_and_launcher():
  assert find() is None
  assert find(distributed=False) is None


def test_flags():
  found = find(
    coordinator="10.0.0.1:1234",
    num_processes=2,
    process_id=1,
    local_device_ids=[0, 3],
  )
  assert found == launcher.Place("10.0.0.1:1234", 2, 1, (0, 3))
  one = {"coordinator": "h:1", "num_processes": 1, "process_id": 0}
  assert find(**one) is None


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ({"coordinator": "h:1"}, "--num_processes and --process_id missing"),
    ({"num_processes": 2, "process_id": 0}, "--coordinator missing"),
    (
      {"coordinator": "h:1", "num_processes": 2, "process_id": 2},
      "numbered from 0 to 1",
    ),
    (
      {"coordinator": "h:1", "num_processes": 2, "process_id": -1},
      "numbered from 0 to 1",
    ),
    (
      {"coordinator": "h:1", "num_processes": 0, "process_id": 0},
      "has to be 1 or more",
    ),
    ({"coordinator": "h", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
    (
      {"coordinator": "h:99999", "num_processes": 2, "process_id": 0},
      "HOST:PORT",
    ),
    ({"distributed": False, "process_id": 0}, "--distributed=false runs alone"),
    ({"distributed": True}, "found no TPU pod, SLURM step or Open MPI"),
  ],
)
def test_what_is_wrong_with_the_flags(flags, says):
  with pytest.raises(UsageError, match=says) as caught:
    find(**flags)
  assert "\n" not in str(caught.value)


def test_one_task_a_node_has_all_its_gpus():
  expected = launcher.Place("node007:62344", 4, 2, None, "SLURM")
  assert find(SLURM) == expected
  assert find(SLURM, distributed=True) == expected
  assert find(SLURM, distributed=False) is None


@pytest.mark.parametrize(
  ("variables", "expected"),
  [
    ({}, (1,)),
    ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
    ({"CUDA_VISIBLE_DEVICES": "0"}, None),  # bound by SLURM already
    ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
  ],
)
def test_tasks_that_share_a_node_have_a_gpu_each(variables, expected):
  shared = {
    "SLURM_STEP_TASKS_PER_NODE": "3(x2),2",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "7",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
  }
  found = find(SLURM | shared | variables)
  assert found is not None
  assert (found.process_id, found.num_processes) == (7, 8)
  assert found.local_device_ids == expected
  given = find(SLURM | shared | variables, local_device_ids=[4, 5])
  assert given is not None and given.local_device_ids == (4, 5)


def test_a_shell_within_an_allocation_is_alone():
  """Its SLURM_NTASKS counts tasks that nobody has started."""
  batch = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
  assert find(batch) is None
  assert (
    find(SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
  )


@pytest.mark.parametrize(
  ("nodes", "first"),
  [
    ("node001", "node001"),
    ("node001,host2", "node001"),
    ("a[3,7-9]-ib,b", "a3-ib"),
    ("r[1-2]n[05-08],z", "r1n05"),
  ],
)
def test_the_first_node_of_a_list(nodes, first):
  found = find(SLURM | {"SLURM_STEP_NODELIST": nodes})
  assert found is not None and found.coordinator == f"{first}:62344"
  port = find(SLURM | {"JAX_COORDINATOR_PORT": "7777"})
  assert port is not None and port.coordinator == "node007:7777"


def test_open_mpi():
  port = 61440 + 1531576320 // 4096 % 4096
  expected = launcher.Place(f"10.96.0.1:{port}", 2, 1, None, "Open MPI")
  assert find(OPEN_MPI) == expected
  shared = {
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  }
  found = find(OPEN_MPI | shared)
  assert found is not None and found.local_device_ids == (1,)
  ipv6 = "1314521088.0;tcp6://[fe80::b9b:1,2620:10d::2]:43370"
  found = find(OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": ipv6})
  assert found is not None
  assert launcher.split_address(found.coordinator)[0] == "fe80::b9b:1"


def test_open_mpi_5_needs_a_coordinator():
  fifth = {k: v for k, v in OPEN_MPI.items() if "uri" not in k}
  with pytest.raises(UsageError, match="--coordinator missing"):
    find(fifth)
  found = find(fifth, coordinator="first:1234")
  assert found == launcher.Place("first:1234", 2, 1, None, "Open MPI")


def test_a_tpu_pod_by_its_variables():
  found = launcher.find(environment=POD)
  assert found == launcher.Place("t-0.svc:8482", 4, 3, None, "the TPU pod")
  assert launcher.find(environment=POD | {"JAX_PLATFORMS": "cpu"}) is None
  found = launcher.find(environment=POD | {"JAX_PLATFORMS": ""})
  assert found is not None and found.process_id == 3
  slices = {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "m-0.svc:8081",
  }
  found = launcher.find(environment=POD | slices)
  assert found == launcher.Place("m-0.svc:8482", 8, 7, None, "the TPU pod")
  one_host = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
  assert launcher.find(environment=one_host, distributed=True) is None


def test_a_tpu_pod_by_its_metadata(monkeypatch):
  attributes = {
    "worker-network-endpoints": "x:1:10.0.0.4,x:2:10.0.0.5",
    "agent-worker-number": "1",
    "tpu-env": "ZONE: 'us-central2-b'\n",
  }

  class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the name that the server calls
      value = attributes.get(self.path.rpartition("/")[2])
      is_known = value is not None and self.headers["Metadata-Flavor"]
      self.send_response(200 if is_known else 404)
      self.end_headers()
      self.wfile.write((value or "").encode())

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("localhost", 0), Metadata)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  environment = {"GCE_METADATA_IP": f"localhost:{server.server_port}"}
  try:
    assert launcher.find(environment=environment) is None  # no libtpu
    monkeypatch.setattr(launcher, "_has_libtpu", lambda: True)
    found = launcher.find(environment=environment)
    assert found == launcher.Place("10.0.0.4:8482", 2, 1, None, "the TPU pod")
    no_chips = environment | {"TPU_SKIP_MDS_QUERY": "1"}
    assert launcher.find(environment=no_chips) is None
    attributes["tpu-env"] += (
      "MEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'"
    )
    found = launcher.find(environment=environment)
    assert found is not None
    assert (found.num_processes, found.process_id) == (6, 5)
    del attributes["agent-worker-number"]
    assert launcher.find(environment=environment) is None
  finally:
    server.shutdown()
    server.server_close()
