"""Trunk muscles in CT: sixteen of them, by vertebral level."""
