"""What a run leaves on disk: workdirs, checkpoints, weights, logs."""
