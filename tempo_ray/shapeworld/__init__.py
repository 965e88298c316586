"""The embedded default: drawn videos with known stories, and tiny Video LLMs trained on them."""
