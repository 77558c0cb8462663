"""Pre-training: the loop, its step, and what they are made of."""
