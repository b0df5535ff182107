"""The folder of a run, and the stages that fill it."""
