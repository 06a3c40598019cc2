"""Scores become numbers."""
