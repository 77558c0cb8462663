"""Pre-training: the loop, its step, and their parts."""
