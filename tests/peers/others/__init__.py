"""Recorders of projects that are not run in CI, one a module; record_others.py runs them."""
