"""The network, and the codec between pixels and the x_0 that it sees."""
