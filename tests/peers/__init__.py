"""aetool's speed beside other libraries: `python -m tests.peers`. Not part of the test suite."""
