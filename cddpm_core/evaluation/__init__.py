"""Evaluators, accuracies, and closer looks at a trained model."""
