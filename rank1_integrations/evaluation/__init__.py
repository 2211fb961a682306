"""The experiment anyone can repeat: what each policy costs and brings, on your model and data.

Run it as `python -m rank1_integrations.evaluation --help`.
"""
