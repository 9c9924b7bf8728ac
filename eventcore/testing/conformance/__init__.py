"""Conformance kits: one class a port. Whoever implements a port subclasses its kit, gives it what to test, and runs it.

A kit reads the implementation's capabilities: what is claimed is tested, what is not claimed is skipped by name, and a
claim that can't be tested for want of a hook fails.
"""

import pkgutil

import pytest

# A failing assertion of a kit tells its values, as one of a test module does.
pytest.register_assert_rewrite(*[f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)])
