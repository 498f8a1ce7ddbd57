"""The statistical proof of the library: ``dpo validate``, which is ``python -m dpo.validation``.

Every estimator is compared with exact expectations and every proposition of the paper is tested;
every threshold is fixed before the data is seen, fixed seeds give fixed verdicts, and deliberately
wrong estimators must be rejected by the same tests. A file a property, listed in ``_parts.py``; the
report is one HTML page, JSON, and JUnit XML (``docs/validation.md``).
"""
