"""A model folder -> an OpenAI-compatible endpoint."""
