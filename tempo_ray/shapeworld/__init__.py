"""The embedded default: drawn videos with known stories, and tiny Video LLMs that can tell them."""
