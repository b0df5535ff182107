"""Parameters, errors, files and devices: what all other packages use."""
