"""A recipe's stages, one after the other in a Ray Train run -> the run's model."""
