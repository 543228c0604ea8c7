"""The method on Ray: one module a job, run as `python -m jobs.NAME`."""
