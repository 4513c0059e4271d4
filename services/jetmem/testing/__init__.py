"""Fakes of the adapters, shipped so that users test with them too."""
