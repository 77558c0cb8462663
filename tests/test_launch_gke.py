"""Training on GKE: the manifest, its schema, and the pool of its slice."""

import aot_report
import launch_helpers
import pytest


@pytest.fixture
def machine(tmp_path):
  return launch_helpers.Machine(tmp_path)


@pytest.mark.parametrize("slice_", launch_helpers.SLICES)
def test_the_jobset_fits_its_schema(machine, slice_):
  """JobSet's and, for the Job and its pods, Kubernetes' own types.

  A field that they do not know is not in what they give back.
  """
  models = pytest.importorskip("kubeflow_trainer_api.models")
  manifest = launch_helpers.start_jobset(machine, slice_)
  assert models.JobsetV1alpha2JobSet.from_dict(manifest).to_dict() == manifest


@pytest.mark.parametrize("slice_", launch_helpers.SLICES)
def test_the_jobset_fits_its_slice(machine, slice_):
  """What no schema says: numbers and names that belong together."""
  manifest = launch_helpers.start_jobset(machine, slice_)
  _, machine_type, accelerator = launch_helpers.SLICES[slice_]
  (pool,) = machine.calls("gcloud", "container", "node-pools", "create")
  assert f"--machine-type={machine_type}" in pool
  assert (manifest["apiVersion"], manifest["kind"]) == (
    "jobset.x-k8s.io/v1alpha2",
    "JobSet",
  )
  (replicated,) = manifest["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  assert f"--tpu-topology={topology}" in pool
  assert aot_report.TOPOLOGIES[slice_].name.partition(":")[2] == topology
  rows, columns = map(int, topology.split("x"))
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert chips == container["resources"]["requests"]["google.com/tpu"]
  assert job["completions"] == job["parallelism"] == rows * columns // chips
  assert f"--num-nodes={job['completions']}" in pool
  label = pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"]
  assert label == accelerator
  assert container["command"] == ["bash", "docs/launch/train.sh"]
  assert container["env"] == [{"name": "BUCKET", "value": "images"}]
  # Any end but the run's own begins all hosts again; wrong input ends the set.
  assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob"
  assert rule["onExitCodes"]["containerName"] == container["name"]
  assert rule["onExitCodes"]["values"] == [2]
  (policy,) = manifest["spec"]["failurePolicy"]["rules"]
  assert policy["action"] == "FailJobSet"
  assert policy["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert pod["terminationGracePeriodSeconds"] > 30


def test_a_pool_that_is_there_is_used(machine):
  machine.fake("gcloud", 'if [ "$3" = list ]; then echo essl-v6e-16; fi\n')
  machine.fake("kubectl", "cat >/dev/null")
  script = launch_helpers.LAUNCH / "gke.sh"
  done = machine.run(script, "v6e-16", **launch_helpers.GKE)
  assert done.returncode == 0, done.stderr
  assert not machine.calls("gcloud", "container", "node-pools", "create")
  assert machine.calls("kubectl") == [["kubectl", "apply", "-f", "-"]]
