"""The index's tables through the versions of this node, by Alembic; ships in the wheel.

A version goes up, never down: before an upgrade that you may regret, copy the database.
"""
