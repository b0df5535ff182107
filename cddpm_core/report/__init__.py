"""Figures, tables and sentences, and the report they make."""
