"""Training: one step, its checkpoint, the loop, and several processes."""
