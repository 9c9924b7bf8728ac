"""What the core needs of the outside, as Protocols with capabilities.

A port's docstrings are its contract; the conformance kits in `eventcore.testing.conformance` hold every
implementation to them.
"""
