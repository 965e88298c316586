"""Pairs to a model: curriculum, prefix-shared batches, losses, and one Ray Train run per stage."""
