"""Compare reasoning policies on a test collection: quality and cost on your model and data.

Run it as `python -m rank1_integrations.evaluation --help`.
"""
