"""Pairs -> a model.

The method is at the top level, in reading order: pairs, conversations, examples, curriculum, batch,
attention, policy, loss, objective, lora. The machinery is in two rooms: `stage`, what every rank
runs for one stage, and `run`, the stages of a recipe one after the other.
"""
