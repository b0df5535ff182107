"""From conditions and seeds to images: denoiser, guidance, samplers, trajectories."""
