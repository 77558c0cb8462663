"""Files of a run: workdirs, checkpoints, weights, logs."""
