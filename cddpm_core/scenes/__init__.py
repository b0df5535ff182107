"""Rendered i-CLEVR-like scenes: sampling, ray tracing, data sets, and the fit to real frames."""
