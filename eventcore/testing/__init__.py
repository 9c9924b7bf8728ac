"""Shipped to users: harness, virtual loop, conformance kits."""
