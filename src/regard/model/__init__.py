"""Histories become scores."""
