"""A recipe's stages, one Ray Train run each -> the run's model."""
