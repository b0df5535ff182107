"""Parameters, errors, files and devices: what every other room uses."""
