"""What every rank runs for one stage. Needs torch's process group and nothing of Ray.

Tested as a whole in tests/train/test_stage.py.
"""
