"""The statistical proof of the library: ``python -m dpo.validation --out report``.

Every estimator is compared with exact expectations, every threshold is fixed before the data is
seen, fixed seeds give fixed verdicts, and deliberately wrong estimators must be rejected by the
same tests. The report is one HTML page and one JSON file.
"""
