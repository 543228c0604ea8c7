"""The method on Ray: one file a command, run as `python -m jobs.NAME`; what they share lies in the folders."""
