"""What stands beside the pipeline: settings, recovery, progress, accounting, and the job."""
