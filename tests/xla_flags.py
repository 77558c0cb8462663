"""XLA's flags for the tests and the programs that they start."""

# For `jax.jit` where a test is of the program as users compile it, or compares
# programs bit for bit: the older emitters round views by their neighbours.
EMITTERS = {"xla_cpu_use_fusion_emitters": True}
OPTIMISED = EMITTERS | {"xla_backend_optimization_level": 3}


def make(devices: int = 1) -> str:
  """Simulates devices, and compiles fast rather than well.

  Compiling takes most of the tests' time, and half as long with XLA's older
  emitters. Numbers are compared between processes, so that all of them compile
  alike.
  """
  return (
    f"--xla_force_host_platform_device_count={devices}"
    " --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false"
  )
