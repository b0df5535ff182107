"""The forward process, the timesteps and loss weights of training, and the samplers."""
