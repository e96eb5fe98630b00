"""Owns the evaluation of a model: generated clips against real ones. Knows nothing of training."""
