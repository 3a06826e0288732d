"""Conversations and texts, until they are tokens."""
