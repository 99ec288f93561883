"""Finds personal data and secrets in text and takes them out."""
