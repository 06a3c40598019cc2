"""Weights become answers."""
